"""The root filesystem and the OCI bundle that all runtimes are timed on."""

import json
import os
import shutil
import subprocess

PROGRAMS = ["true", "sh", "cat", "sleep", "head"]

# What docker, podman and containerd grant by default, and so does Conti.
CAPABILITIES = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT",
    "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
]  # fmt: skip


def build_root(root):
    """Copies a few programs of the host, with the libraries they need."""
    for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"]:
        (root / name).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    for name in PROGRAMS:
        program = shutil.which(name, path="/usr/bin:/bin")
        shutil.copy(program, root / "bin" / name)
        listing = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
        for word in listing.split():
            target = root / word.lstrip("/")
            if word.startswith("/") and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(word, target)


def seccomp(path):
    """Podman's default filter, resolved for the default capabilities."""
    profile = json.loads(path.read_text())
    native = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}[os.uname().machine]
    entry = next(e for e in profile["archMap"] if e["architecture"] == native)
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]

    def applies(rule):
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if any(c not in CAPABILITIES for c in includes.get("caps") or []):
            return False
        if arch not in (includes.get("arches") or [arch]):
            return False
        if any(c in CAPABILITIES for c in excludes.get("caps") or []):
            return False
        return arch not in (excludes.get("arches") or [])

    rules = []
    for rule in filter(applies, profile["syscalls"]):
        kept = {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key)}
        rules.append(kept)
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile.get("defaultErrnoRet", 1),
        "architectures": [native, *entry.get("subArchitectures", [])],
        "syscalls": rules,
    }


def bundle(directory, root, filters, argv):
    """Writes a bundle with the namespaces, mounts and confinement of Conti's default container."""
    directory.mkdir()
    sets = ["bounding", "effective", "permitted"]
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": argv,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {name: CAPABILITIES for name in sets},
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": False},
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc"),
            mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666"),
            mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777"),
            mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        ],
        "linux": {
            "namespaces": [
                {"type": t} for t in ["pid", "uts", "ipc", "network", "mount", "cgroup"]
            ],
            "seccomp": filters,
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": [
                "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
            ],
            "readonlyPaths": [
                "/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                "/proc/sysrq-trigger",
            ],
        },
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def mount(target, kind, *options):
    return {"destination": target, "type": kind, "source": kind, "options": list(options)}
