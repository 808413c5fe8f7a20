"""Load the images of an unpacked bundle into the containerd that runs on this host, and print the names of those it lacked.

    load_images.py BUNDLE [OPTION OF ctr ...]

A bundle has no archives of its images, only a containerd store in which they are unpacked. The store of a node that runs is not
replaced, for its pods live in it. So a second containerd serves the bundle's store, and each image goes from there to the first one.
"""

import fcntl
import glob
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager

SECONDS_TO_WAIT = 60
NAMESPACE = "k8s.io"
CONFIG = """
version = 3
root = '{bundle}/containerd'
state = '{folder}/state'
disabled_plugins = ['io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', 'io.containerd.grpc.v1.cri', 'io.containerd.nri.v1.nri']
[grpc]
address = '{folder}/c.sock'
[ttrpc]
address = '{folder}/c.sock.ttrpc'
"""


class Store:
    """The images of a containerd."""

    def __init__(self, ctr, *options):
        self.command = [ctr, *options, "--namespace", NAMESPACE]

    def run(self, *arguments, **options):
        """Run ctr, and return what it prints. If it fails, end with its message."""
        done = subprocess.run(
            [*self.command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, **options
        )
        if done.returncode:
            sys.exit("Failed to run ctr {}: {}".format(" ".join(arguments[:2]), done.stderr.decode().strip()))
        return done.stdout

    def answers(self):
        """Return whether containerd answers."""
        done = subprocess.run(
            [*self.command, "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
        return done.returncode == 0

    def images(self):
        """Return the digests of all images by name."""
        rows = [line.split() for line in self.run("images", "list").decode().splitlines()[1:]]
        return {row[0]: row[2] for row in rows}

    def config(self, digest):
        """Return the configuration of the image whose manifest has this digest."""
        manifest = json.loads(self.run("content", "get", digest))
        return json.loads(self.run("content", "get", manifest["config"]["digest"]))

    @contextmanager
    def mounted(self, name, folder):
        """Mount the files of an image on a folder within the context."""
        self.run("images", "mount", name, folder)
        try:
            yield
        finally:
            self.run("images", "unmount", "--rm", folder)


def remove(folder):
    """Remove a folder in which there may be mounts."""
    with open("/proc/self/mounts", encoding="utf-8") as stream:
        targets = [line.split()[1] for line in stream]
    for target in sorted((target for target in targets if target.startswith(folder + "/")), reverse=True):
        subprocess.run(["umount", target], check=False)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serving(bundle, folder):
    """Run a containerd on the store of a bundle within the context."""
    config, log, programs = (
        os.path.join(*parts) for parts in ((folder, "config.toml"), (folder, "log"), (bundle, "bin"))
    )
    with open(config, "w", encoding="utf-8") as stream:
        stream.write(CONFIG.format(bundle=bundle, folder=folder))
    # It ends with this process, even if that is killed.
    command = ["setpriv", "--pdeathsig", "KILL", os.path.join(programs, "containerd"), "--config", config]
    environment = dict(os.environ, PATH=programs + ":/usr/sbin:/usr/bin:/sbin:/bin")
    with open(log, "wb") as output:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    store = Store(os.path.join(programs, "ctr"), "--address", os.path.join(folder, "c.sock"))
    end = time.monotonic() + SECONDS_TO_WAIT
    try:
        while not store.answers():
            if daemon.poll() is not None or time.monotonic() > end:
                with open(log, encoding="utf-8", errors="replace") as stream:
                    sys.exit("Failed to start the containerd of the bundle: " + stream.read().strip()[-400:])
            time.sleep(0.25)
        yield store
    finally:
        daemon.terminate()
        daemon.wait()


def write_archive(files, names, config, target):
    """Write a folder as an archive of an image with one layer, in the form of `docker save`."""
    with tempfile.TemporaryFile(dir=os.path.dirname(target)) as layer:
        with tarfile.open(fileobj=layer, mode="w") as archive:
            archive.add(files, arcname=".")
        size = layer.tell()
        layer.seek(0)
        digest = hashlib.sha256()
        for block in iter(lambda: layer.read(1 << 20), b""):
            digest.update(block)
        layer.seek(0)
        config = dict(config, rootfs={"type": "layers", "diff_ids": ["sha256:" + digest.hexdigest()]})
        manifest = [{"Config": "config.json", "RepoTags": names, "Layers": ["layer.tar"]}]
        with tarfile.open(target, "w") as archive:
            for name, data in (("manifest.json", manifest), ("config.json", config)):
                text = json.dumps(data).encode()
                member = tarfile.TarInfo(name)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text))
            member = tarfile.TarInfo("layer.tar")
            member.size = size
            archive.addfile(member, layer)


def load(running, bundle, wanted):
    """Load these images of the bundle."""
    # beside the bundle: /tmp may be in memory
    folder = tempfile.mkdtemp(dir=bundle, prefix=".load-")
    try:
        with serving(bundle, folder) as store:
            by_digest = {}
            for name, digest in store.images().items():
                if name in wanted:
                    by_digest.setdefault(digest, []).append(name)
            for digest, names in sorted(by_digest.items()):
                files, archive = os.path.join(folder, digest.partition(":")[2]), os.path.join(folder, "image.tar")
                os.mkdir(files)
                with store.mounted(names[0], files):
                    write_archive(files, names, store.config(digest), archive)
                running.run("images", "import", "--local", "--discard-unpacked-layers", archive)
    finally:
        remove(folder)


def main(bundle, *options):
    """Load what is missing."""
    with open(os.path.join(bundle, "manifest.json"), encoding="utf-8") as stream:
        wanted = json.load(stream)["images"]
        # One run at a time, and what a run that was killed has left.
        fcntl.flock(stream, fcntl.LOCK_EX)
        load_missing(bundle, wanted, options)


def load_missing(bundle, wanted, options):
    """Load those of the wanted images that containerd lacks, and print their names."""
    for left in glob.glob(os.path.join(bundle, ".load-*")):
        remove(left)
    running = Store(os.path.join(bundle, "bin", "ctr"), *options)
    present = running.images()
    lacking = [name for name in wanted if name not in present]
    if lacking:
        load(running, bundle, lacking)
    print("\n".join(lacking))


if __name__ == "__main__":
    main(*sys.argv[1:])
