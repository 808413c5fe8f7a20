"""Filters that shape what playbooks and roles read: missing images, control planes, what a script printed."""

from __future__ import annotations

from ansible_collections.q8s.emu.plugins.filter.answering_hosts import answering_hosts
from ansible_collections.q8s.emu.plugins.filter.missing_images import missing_images
from ansible_collections.q8s.emu.plugins.filter.survey import survey

IMAGES = [{"name": "q8s.local/a:1", "artifact": "a-x86_64"}, {"name": "q8s.local/b:1", "artifact": "b-x86_64"}]
ARTIFACTS = {f"{name}-x86_64": {"name": f"{name}.tar.gz", "sha256": name} for name in "abc"}


def test_a_node_downloads_the_images_that_it_lacks() -> None:
    # A raw answer has carriage returns, and a longer name is another image.
    present = "q8s.local/a:1\r\nq8s.local/b:12\r\n"
    assert missing_images(IMAGES, present, ARTIFACTS) == [{"name": "b.tar.gz", "sha256": "b"}]
    assert missing_images(IMAGES, "", ARTIFACTS) == [ARTIFACTS["a-x86_64"], ARTIFACTS["b-x86_64"]]


def test_control_planes_that_answered_are_listed_once_and_in_order() -> None:
    variables = {
        "first": {"q8s_api_answer": {"rc": 0}},
        "second": {"q8s_api_answer": {"rc": 1}},
        "unreachable": {"q8s_api_answer": {"unreachable": True}},
        "not-asked": {},
        "third": {"q8s_api_answer": {"rc": 0}},
    }
    hosts = ["third", "first", "second", "third", "unreachable", "not-asked"]
    assert answering_hosts(variables, hosts) == ["third", "first"]


def test_a_survey_has_the_values_of_a_key_in_order() -> None:
    lines = ["packages", "bundle v1.36.3", "own /opt/cni/bin", "own /usr/local/bin/ctr", "rules", "owner nobody"]
    assert survey(lines, "own") == ["/opt/cni/bin", "/usr/local/bin/ctr"]
    assert survey(lines, "bundle") == ["v1.36.3"]
    assert survey(lines, "rules") == [""], "a key without a value"
    assert survey(lines, "unit") == []
    assert survey(["rules missing: nat -A Q8S_PRE\r"], "rules") == ["missing: nat -A Q8S_PRE"]
