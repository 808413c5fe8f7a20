"""The links of a cluster file: right values, and mistakes with their place."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ansible_collections.q8s.emu.plugins.filter.deploy_plan import deploy_plan
from ansible_collections.q8s.emu.plugins.module_utils import _links, _spec
from ansible_collections.q8s.emu.plugins.module_utils._links import Impairment, Loss, Rule

from q8s_wrapper import report

DEMO = (Path(__file__).parents[3] / "examples" / "demo.yaml").read_text(encoding="utf-8")


def load(network: str) -> _spec.Cluster:
    return _spec.load_text(f"{DEMO}\nnetwork:\n{network}", "c.yaml")


def test_a_link_takes_its_profile_and_replaces_what_it_names() -> None:
    cluster = load(
        "  profiles:\n    lte: {delay: 45ms, jitter: 5ms, rate: {up: 7mbit, down: 30mbit}, loss: 0.1%}\n"
        "  links:\n    - {from: control-planes, to: '*', profile: lte, delay: 20ms}\n"
    )
    impairment = Impairment(delay=20_000, jitter=5_000, rate=7_000_000, loss=Loss(0.1))
    assert cluster.links.rules == (Rule("control-planes", "*", impairment, reverse_rate=30_000_000),)
    assert not [warning for warning in cluster.warnings if "matches no" in warning.message]


def test_directions_between_control_planes_are_named_as_not_shaped() -> None:
    text = DEMO.replace("number_additional_master_nodes: 0", "number_additional_master_nodes: 1")
    cluster = _spec.load_text(f"{text}\nnetwork:\n  defaults: {{delay: 1ms}}\n", "c.yaml")
    first, second = (server.node for server in cluster.servers() if server.vm_type is None)
    warning = next(str(w) for w in cluster.warnings if w.path == "network")
    assert f"not shaped: {first} -> {second}, {second} -> {first}" in warning


def test_links_need_addresses_that_differ_in_16_bits() -> None:
    text = DEMO.replace("10.254.1.0/24", "10.252.0.0/14").replace("172.29.0.0/16", "172.16.0.0/12")
    text = text.replace("guest_ip_prefix: 172.16.0.0/12", "guest_ip_prefix: 32.0.0.0/8")
    _spec.load_text(text, "c.yaml")
    with pytest.raises(_spec.SpecError, match=r"remote_ip_prefix of /16 or longer; it is 10\.252\.0\.0/14"):
        _spec.load_text(f"{text}\nnetwork:\n  defaults: {{delay: 1ms}}\n", "c.yaml")


def test_duplicates_beside_another_link_are_refused() -> None:
    load("  links:\n    - {from: 'type:arm-mid', to: control-planes, duplicate: 1%}\n")
    with pytest.raises(
        _spec.SpecError, match=r"network\.defaults\.duplicate: is 1% from .* Linux allows no other link"
    ):
        load("  defaults: {duplicate: 1%}\n")
    with pytest.raises(_spec.SpecError, match=r"network\.links\[1\]\.duplicate: is 2% from arm-mid-1 to x86-small-1;"):
        load(
            "  links:\n    - {from: 'type:arm-mid', to: '*', delay: 1ms}\n"
            "    - {from: 'node:arm-mid-1', to: 'type:x86-small', duplicate: 2%}\n"
        )


def test_a_distribution_that_looks_alike_is_not_suggested() -> None:
    with pytest.raises(_spec.SpecError) as caught:
        load("  defaults: {delay: 9ms, jitter: 1ms, distribution: uniform}\n")
    assert "is 'uniform'; allowed: normal, pareto, paretonormal" in str(caught.value)
    assert "did you mean" not in str(caught.value)


def test_a_completed_cluster_is_read_as_an_equal_one() -> None:
    cluster = load(
        "  defaults: {delay: 0.5ms, rate: 1gbit}\n  exempt: [ssh]\n  links:\n"
        "    - {from: '*', to: '*', symmetric: true, loss: {model: gilbert-elliott, p: 1%, r: 30%},"
        " corrupt: 0.000001%}\n"
    )
    assert cluster.links.rules[0].impairment.loss == Loss(1, 30)
    assert _spec.load_mapping(cluster.to_mapping(), "c.yaml") == cluster


def test_a_cluster_without_links_has_no_field_of_them() -> None:
    assert "network" not in _spec.load_text(DEMO, "c.yaml").to_mapping()


@pytest.mark.parametrize(
    ("link", "path", "words"),
    [
        ("from: '*', to: '*', delay: 45", "network.links[0].delay", "is 45; must be a number with us, ms or s"),
        ("from: '*', to: zones:x", "network.links[0].to", "must be node:NAME, type:NAME, zone:NAME, control-planes"),
        ("from: '*', to: '*', rate: {up: 1mbit}", "network.links[0].rate.down", "is missing"),
        ("from: '*', to: '*', profile: lte", "network.links[0].profile", "lte is not in network.profiles"),
        ("from: '*', to: '*', jitter: 1ms", "network.links[0].jitter", "is 1 ms, without a delay"),
        ("from: '*', to: '*', jitter: 50ms, delay: 2ms", "network.links[0].jitter", "must be at most the delay, 2 ms"),
        ("from: '*', to: '*', delay: 2, jitter: 50ms", "network.links[0].delay", "is 2; must be a number with us"),
        ("from: '*', to: '*', profile: lte, jitter: 5ms", "network.links[0].profile", "did you mean webpagetest-lte?"),
        (
            "from: '*', to: '*', loss: {model: gilbert-elliott, p: 1%, r: 0%}",
            "network.links[0].loss.r",
            "is '0%'; must be a number with %, such as 30%, above 0%",
        ),
        ("from: '*', to: '*', reorder: 1%", "network.links[0].reorder", "is 1%, without a delay"),
        ("from: '*', to: '*', dealy: 1ms", "network.links[0].dealy", "unknown key"),
    ],
)
def test_a_mistake_is_an_error_with_its_place(link: str, path: str, words: str) -> None:
    with pytest.raises(_spec.SpecError) as caught:
        load(f"  links:\n    - {{{link}}}\n")
    assert [problem.path for problem in caught.value.problems] == [path]
    assert words in str(caught.value)
    assert caught.value.problems[0].line > DEMO.count("\n")


@pytest.mark.parametrize(
    ("link", "path", "words"),
    [
        ("distribution: pareto, delay: 1ms", ".distribution", "is pareto, but has no effect without jitter"),
        (
            "symmetric: true, rate: {up: 1mbit, down: 2mbit}",
            ".symmetric",
            "has no effect beside a rate with up and down",
        ),
        ("symmetric: true", "", "has nothing that happens to packets"),
        ("delay: 10ms, jitter: 6ms", ".jitter", "is 6 ms, more than half of the delay, 10 ms"),
        ("delay: 60s, rate: 100gbit", ".delay", "holds 100000 packets, and packets are lost above 20.2 Mbit/s"),
        ("delay: 60s", ".delay", "is 60000 ms, too long for an unlimited rate"),
        ("delay: 2s, rate: {up: 1mbit, down: 10gbit}", ".delay", "too long for a rate of 10000 Mbit/s"),
    ],
)
def test_what_is_hardly_meant_is_a_warning(link: str, path: str, words: str) -> None:
    cluster = load(f"  links:\n    - {{from: control-planes, to: '*', {link}}}\n")
    warnings = [(w.path, w.message) for w in cluster.warnings if w.path.startswith("network.links")]
    assert [found for found, _message in warnings] == [f"network.links[0]{path}"]
    assert words in warnings[0][1]
    again = _spec.load_mapping(cluster.to_mapping(), "c.yaml")
    assert again == cluster


@pytest.mark.parametrize("link", ["delay: 0ms", "delay: 40ms, jitter: 5ms, distribution: pareto", "rate: 100gbit"])
def test_usual_links_give_no_warning(link: str) -> None:
    cluster = load(f"  links:\n    - {{from: control-planes, to: '*', {link}}}\n")
    for known in (cluster, _spec.load_mapping(cluster.to_mapping(), "c.yaml")):
        assert [str(w) for w in known.warnings if w.path.startswith("network.links")] == []


def test_a_link_that_matches_nothing_is_a_warning() -> None:
    cluster = load("  links:\n    - {from: 'type:riscv', to: '*', delay: 1ms}\n")
    assert [w.path for w in cluster.warnings if "matches no node" in w.message] == ["network.links[0].from"]


def test_the_plan_has_the_links_in_rows_and_the_report_shows_them() -> None:
    kind = _spec.load_text(DEMO, "c.yaml").types[0].name
    cluster = load(f"  links:\n    - {{from: control-planes, to: 'type:{kind}', delay: 45ms, jitter: 5ms, loss: 1%}}\n")
    preflight = {"plan": {"changes": [], "notes": [], "quota": {}}}
    plan = deploy_plan(preflight, {}, cluster.to_mapping())
    control = [s.node for s in cluster.servers() if s.vm_type is None]
    workers = [s.node for s in cluster.servers() if s.vm_type is not None and s.vm_type.name == kind]
    words = "delay 45 ms +- 5 ms (normal), loss 1%"
    assert plan["links"] == [{"from": control, "to": workers, "impairment": words}]
    assert f"link: {control[0]} -> {', '.join(workers)}: {words}" in report.plan(plan, None, 200)


def test_many_nodes_are_counted_in_a_line() -> None:
    row = {"from": ["a"], "to": ["b", "c", "d", "e", "f", "g"], "impairment": "delay 1 ms"}
    assert "link: a -> b, c, d, e and 2 more: delay 1 ms" in report.plan({"links": [row]}, None, 200)


def test_nodes_with_the_same_links_share_a_row() -> None:
    link = Impairment(delay=1000)
    rows = _links.matrix_rows({("a", "c"): link, ("a", "d"): link, ("b", "c"): link, ("b", "d"): link})
    assert rows == [{"from": ["a", "b"], "to": ["c", "d"], "impairment": "delay 1 ms"}]


TWO_ZONES = DEMO.replace("architecture: x86_64", "zone: west\n      architecture: x86_64").replace(
    "architecture: arm_64", "zone: east\n      architecture: arm_64"
)


def delays(network: str) -> dict[tuple[str, str], int]:
    """The delays in microseconds between the two workers of the demo, which are in the zones west and east."""
    cluster = _spec.load_text(f"{TWO_ZONES}\nnetwork:\n{network}", "c.yaml")
    matrix = cluster.link_matrix()
    return {pair: link.delay for pair, link in matrix.items()}


WEST, EAST = "x86-small-1", "arm-mid-1"
VIENNA_AND_NEW_YORK = "  coordinates:\n    west: {lat: 40.71, lon: -74.01}\n    east: {lat: 48.21, lon: 16.37}\n"


def test_zones_far_apart_are_delayed_by_their_distance() -> None:
    found = delays(VIENNA_AND_NEW_YORK)
    # 6800 km; light in a straight fibre takes 34 ms
    assert found[WEST, EAST] == found[EAST, WEST] == pytest.approx(71_500, rel=0.01)
    assert set(found) == {(WEST, EAST), (EAST, WEST)}


def test_a_matrix_has_a_delay_for_each_direction() -> None:
    found = delays("  matrix: |\n    ,west,east\n    west,,40\n    east,12.5,\n")
    assert found == {(WEST, EAST): 40_000, (EAST, WEST): 12_500}


def test_a_matrix_may_be_a_file_beside_the_cluster_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"{TWO_ZONES}\nnetwork:\n  matrix: latencies.csv\n")
    with pytest.raises(_spec.SpecError, match=r"latencies\.csv cannot be read: No such file or directory"):
        _spec.load_file(str(file))
    (tmp_path / "latencies.csv").write_text("\ufeff,west,east\r\nwest,,40\r\neast,12.5,\r\n")
    cluster = _spec.load_file(str(file))
    found = {pair: link.delay for pair, link in cluster.link_matrix().items()}
    assert found == {(WEST, EAST): 40_000, (EAST, WEST): 12_500}
    assert _spec.load_mapping(cluster.to_mapping(), "elsewhere") == cluster
    (tmp_path / "latencies.csv").write_text(",west\nwest,x\n")
    with pytest.raises(_spec.SpecError, match=r"latencies\.csv: line 2, column west: 'x' must be a delay"):
        _spec.load_file(str(file))


def test_a_matrix_may_name_nodes_and_selectors() -> None:
    found = delays(f"  matrix: |\n    to,{WEST},*\n    {EAST},7,3\n")
    assert found == {(EAST, WEST): 7_000, (EAST, "demo-control-plane"): 3_000}


def test_the_matrix_comes_before_coordinates_and_links_before_both() -> None:
    matrix = "  matrix: |\n    ,west,east\n    west,,40\n"
    found = delays(VIENNA_AND_NEW_YORK + matrix)
    assert (found[WEST, EAST], found[EAST, WEST]) == (40_000, pytest.approx(71_500, rel=0.01))
    found = delays(VIENNA_AND_NEW_YORK + matrix + "  links: [{from: zone:west, to: zone:east, delay: 1ms}]\n")
    assert found[WEST, EAST] == 1_000


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("matrix: latencies.csv", "network.matrix: is latencies.csv, but the folder of the cluster file is not known"),
        ("matrix: ../latencies.csv", "network.matrix: is '../latencies.csv'; must be CSV"),
        ("matrix: |\n    ,a\n    b,x\n", "line 2, column a: 'x' must be a delay in ms, from 0 to 60000, or empty"),
        ("matrix: |\n    ,a\n    b,1,2\n", "line 2: has 2 cells after the name; must have 1: a"),
        ("matrix: |\n    ;a;b\n    a;;5\n", "line 1: is ';a;b', which has no columns; commas must separate the cells"),
        ("matrix: |\n    to\n    a\n", "line 1: is 'to', which has no columns"),
        ("matrix: |\n    ,a\n    b,\n", "has no delay: every cell is empty"),
        ('matrix: |\n    ,a\n    "b,1\n', "line 2: is not CSV; quotes must enclose a whole cell"),
        ("matrix: |\n    ,a,a\n    b,1,2\n", "line 1: the column a is there twice"),
        ("coordinates: {east: {lat: 91, lon: 0}}", "network.coordinates.east.lat: is 91; must be a number (degrees)"),
        ("coordinates: {east: {lat: 1}}", "network.coordinates.east.lon: is missing"),
    ],
)
def test_a_mistake_in_a_source_of_delays_is_an_error(network: str, words: str) -> None:
    with pytest.raises(_spec.SpecError) as caught:
        delays(f"  {network}\n")
    assert words in str(caught.value)


def test_names_of_a_matrix_that_the_cluster_does_not_have_are_a_warning() -> None:
    cluster = _spec.load_text(f"{TWO_ZONES}\nnetwork:\n  matrix: |\n    ,east,mars\n    west,1,9\n", "c.yaml")
    assert [w.message for w in cluster.warnings if w.path == "network.matrix"] == [
        "names neither zones nor nodes of this cluster: mars"
    ]


def test_a_published_profile_needs_no_definition() -> None:
    cluster = load("  links:\n    - {from: control-planes, to: '*', profile: webpagetest-lte, loss: 1%}\n")
    impairment = Impairment(delay=35_000, rate=12_000_000, loss=Loss(1))
    assert cluster.links.rules == (Rule("control-planes", "*", impairment, reverse_rate=12_000_000),)
    assert _spec.load_mapping(cluster.to_mapping(), "c.yaml") == cluster


def test_250_nodes_with_delays_of_their_own_are_computed_in_a_moment() -> None:
    nodes = [_links.Endpoint(f"n{number}") for number in range(250)]
    rules = [Rule(f"node:{a.name}", f"node:{b.name}", Impairment(delay=1)) for a in nodes for b in nodes]
    begin = time.process_time()
    assert len(_links.link_matrix(nodes, rules)) == 250 * 249
    assert time.process_time() - begin < 5
