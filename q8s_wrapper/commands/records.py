"""Commands that keep what a deploy was: timeline, record."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from q8s_wrapper import damage, folders, messages, report, state, terminal
from q8s_wrapper.commands import load
from q8s_wrapper.commands.offline import program_versions
from q8s_wrapper.commands.session import open_session
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.experiment import crate, record, secrets, timeline, timeline_record, timeline_text

_TIMELINE: Final = "timeline.json"


def show_timeline(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Show where the time of the last deploy went."""
    cluster = load(arguments.file)
    output = Path(arguments.output).expanduser().absolute() if arguments.output else None
    if output:
        folders.check(output, _TIMELINE, force=arguments.force)
    deploy = find_deploy(arguments, cluster, last=arguments.last)
    if deploy is None:
        folder = state.find(cluster.cluster_name)
        raise WrapperError(
            f"Failed to find a recorded deploy of cluster {cluster.cluster_name} in {folder}",
            f"{arguments.invocation.command('deploy')} records one; a deploy with ansible-playbook is not recorded",
        )
    found = timeline.analysis(deploy)
    if output:
        from ansible_collections.q8s.emu.plugins.module_utils import _results_folder

        _results_folder.write(output, record.timeline_files(found))
        messages.info(f"wrote {output}")
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(timeline_text.text(found, terminal.columns())))
    return ExitCode.DONE


def find_deploy(arguments: argparse.Namespace, cluster: Any, *, last: bool = False) -> dict[str, Any] | None:
    """Return the last deploy that created servers, with the milestones of its guests, or None if none is recorded.

    :param last: return the last deploy even if it created no server
    :raises WrapperError: the record of the deploy is damaged
    """
    folder = state.find(cluster.cluster_name)
    deploy = timeline_record.read(folder, last=last)
    if deploy is not None and timeline_record.lacks_guests(deploy):
        facts = read_facts(arguments, cluster, checksums=False)
        deploy = _with_guests(folder, deploy, facts or record.EMPTY)
    return deploy


def _with_guests(folder: Path, deploy: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deploy with the milestones of its guests, and keep them."""
    found = timeline_record.with_guests(deploy, facts["guests"])
    if found["guests"]:
        timeline_record.keep_guests(folder, found)
    return found


def read_facts(arguments: argparse.Namespace, cluster: Any, *, checksums: bool) -> Mapping[str, Any] | None:
    """Return what the playbook ``record`` reads from the cluster, or None if it failed.

    :param checksums: whether to compute the checksums of the artifacts
    """
    with open_session(arguments, cluster, changes=False) as session:
        options = ["-e", json.dumps({"q8s_with_checksums": checksums})]
        outcome = session.play("record", options, as_json=False)
        if outcome.code == ExitCode.DONE:
            return dict(outcome.state.results["q8s_facts"])
        if outcome.code == ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        for line in report.failures(outcome.state, session.invocation, terminal.columns()):
            messages.result(line)
        return None


def write_record(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Write what another lab needs to repeat the experiment, as an RO-Crate."""
    cluster = load(arguments.file)
    output = Path(arguments.node).expanduser().absolute()
    archive = output.with_name(f"{output.name}.zip")
    folders.check(output, crate.METADATA, force=arguments.force)
    if arguments.zip and archive.exists() and not arguments.force:
        raise WrapperError(f"{archive} exists: nothing was changed", "replace it with --force", ExitCode.WRONG_INPUT)
    bench = _read_bench(Path(arguments.bench).expanduser(), cluster.cluster_name) if arguments.bench else {}
    text = Path(arguments.file).read_text(encoding="utf-8")
    matrix = cluster.links.matrix_file
    tables = {matrix: Path(arguments.file).with_name(matrix).read_bytes()} if matrix else {}
    facts = read_facts(arguments, cluster, checksums=True)
    if facts is None:
        return ExitCode.FAILED
    if not record.is_complete(facts):
        raise WrapperError(
            f"Failed to record cluster {cluster.cluster_name}: its initial control plane did not answer; "
            "nothing was written",
            f"{arguments.invocation.command('status')} shows why",
        )
    verify = verify_result(arguments, cluster) if arguments.verify else None
    folder = state.find(cluster.cluster_name)
    deploy = None
    with damage.tolerated("the record is without it"):
        deploy = timeline_record.read(folder)
        if deploy is None:
            messages.warning("this machine has no timeline of the cluster's deploy; the record is without it")
    if deploy is not None and timeline_record.lacks_guests(deploy):
        deploy = _with_guests(folder, deploy, facts)
    sources = record.Sources(
        cluster,
        Path(arguments.file).name,
        text,
        facts,
        deploy,
        verify,
        bench,
        program_versions(),
        arguments.license or "",
        tables,
    )
    files = record.files(sources, datetime.now(UTC))
    leaked = secrets.find(files, secrets.known(folder, os.environ))
    if leaked:
        raise WrapperError(
            "Failed to record the cluster: a record must not have secrets; nothing was written\n"
            + "\n".join(f"  {leak}" for leak in leaked)
        )
    from ansible_collections.q8s.emu.plugins.module_utils import _results_folder

    _results_folder.write(output, files)
    if arguments.zip:
        _write_archive(output, archive)
    print(f"{output}: {len(files)} files")
    failed = verify is not None and verify["exit_code"] != ExitCode.DONE
    if failed:
        messages.warning("verify found a broken promise; verify.json of the record has it")
    return ExitCode.FAILED if failed else ExitCode.DONE


def verify_result(arguments: argparse.Namespace, cluster: Any) -> dict[str, Any]:
    """Run ``verify``, and return its result as ``--json`` has it."""
    with open_session(arguments, cluster) as session:
        outcome = session.play("verify", [], as_json=False)
        if outcome.code == ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        return report.result("verify", outcome.code, outcome.state, str(outcome.log))


def _read_bench(folder: Path, cluster_name: str) -> dict[str, bytes]:
    """Return the files of a folder with results of ``bench``.

    :raises WrapperError: it is no such folder, or the results are those of another cluster
    """
    if not (folder / folders.RESULTS).is_file():
        raise WrapperError(
            f"--bench: {folder} has no {folders.RESULTS}",
            "pass a folder that q8s-run bench wrote",
            ExitCode.WRONG_INPUT,
        )
    files = folders.read(folder)
    try:
        results = json.loads(files[folders.RESULTS])
        name, _complete = results["cluster"], results["complete"]
    except (ValueError, TypeError, LookupError) as error:
        raise WrapperError(
            f"--bench: Failed to read {folder / folders.RESULTS}: it is damaged ({error})", code=ExitCode.WRONG_INPUT
        ) from None
    if name != cluster_name:
        raise WrapperError(
            f"--bench: {folder} has the results of the cluster {name}, not of {cluster_name}", code=ExitCode.WRONG_INPUT
        )
    return files


def _write_archive(output: Path, archive: Path) -> None:
    """Write a record as a zip file, which gets its name when it is complete."""
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as work:
        made = shutil.make_archive(str(Path(work) / output.name), "zip", output.parent, output.name)
        Path(made).replace(archive)
