//! The long help of the commands: what each column is, its unit, and the image and field it comes from.

macro_rules! with_input {
    ($columns:literal) => {
        concat!(
            $columns,
            "\n\nInput:\n\
            An image directory, or a checkpoint archive as containerd, CRI-O and podman write them: tar, plain or compressed with gzip or zstd. Of an \
            archive only the images of records are held (at most 512 MiB); memory pages are passed over, and nothing is unpacked to disk.\n\n\
            Exit codes:\n  0  done\n  2  the command line is wrong\n  3  the input cannot be read\n  4  the output cannot be written"
        )
    };
}

pub(super) const ONE_IMAGE: &str = "\
Input:\n\
An image file (any name; its magic number tells what it is), `-` for standard input, or an image directory or checkpoint archive and the NAME of \
an image in it.\n\n\
Exit codes:\n  0  done\n  2  the command line is wrong\n  3  the input cannot be read\n  4  the output cannot be written";

pub(super) const INFO: &str = with_input!(
    "\
Columns:
  RECORDS   how many the image has
  PAYLOAD   bytes behind the records: contents of pipes, queues, files without a name
  SIZE      of what has no records: memory pages, archives

Times are in microseconds, pages in units of the machine's page size (stats-dump, stats-restore)."
);

pub(super) const PS: &str = with_input!(
    "\
Columns:
  PID, PGID, SID   ids in the process's pid namespace (pstree: pid, pgid, sid)
  THREADS          how many (pstree: threads)
  STATE            alive, stopped, dead or zombie (core-PID: tc.task_state)
  COMMAND          name, indented below the parent (core-PID: tc.comm; pstree: ppid)
  PROGRAM          path in the container (mm-PID: exe_file_id, in files: reg.name)"
);

pub(super) const FDS: &str = with_input!(
    "\
Columns:
  PID     the process (pstree)
  FD      number, or cwd, root, exe (fdinfo-ID: fd, with ids-PID: files_id; fs-PID; mm-PID)
  TYPE    kind of file (fdinfo-ID: type)
  MODE    access, open(2) flags, close-on-exec (files: flags; fdinfo-ID: flags)
  POS     offset in bytes (files: pos)
  MOUNT   mount point it was opened on (files: mnt_id, in mountpoints-ID)
  STATE   external: handed in at restore (files: reg.ext); unlinked: its content is kept beside (remap-fpath)
  FILE    path, address, or what else tells it apart (files)"
);

pub(super) const MEMS: &str = with_input!(
    "\
Columns:
  PID          the process (pstree)
  START, END   addresses, hexadecimal (mm-PID: vmas.start, vmas.end)
  KIB          address space in KiB, not memory
  MODE         read, write, execute, shared or private (vmas.prot, vmas.flags)
  WHAT         file and offset in bytes, or kind; the same number is the same memory (vmas.shmid, pgoff, status)"
);

pub(super) const SOCKETS: &str = with_input!(
    "\
Columns (files: isk, usk, nlsk, psk):
  TYPE      protocol and version, or kind
  STATE     the kernel's state
  LOCAL     address and port, path, @ and abstract name, or inode
  REMOTE    the peer
  NETWORK   id of the network namespace (ns_id)
  PID/FD    who has it (fdinfo-ID)"
);

pub(super) const MOUNTS: &str = with_input!(
    "\
Columns (mountpoints-ID):
  ID, PARENT    numbers at dump (mnt_id, parent_mnt_id)
  MOUNT POINT   in the container (mountpoint)
  TYPE          file system (fstype, fsname)
  SOURCE        device or name (source)
  ROOT          the part of the file system that is mounted (root)
  EXTERNAL      key of a mount whose source is given at restore (ext_key)
  OPTIONS       of the super block (options)"
);

pub(super) const CGROUPS: &str = with_input!(
    "\
Columns (cgroup):
  SET          id that threads name (sets.id; core-TID: thread_core.cg_set)
  HIERARCHY    controllers, or v2 (sets.ctls.name; controllers.cnames)
  PATH         from the root of criu's cgroup namespace (sets.ctls.path)
  NAMESPACE    the part of it above the threads' cgroup namespace (the first cgns_prefix bytes)
  THREADS      who is in the set (core-TID)
  DIRECTORY    a cgroup that CRIU makes again (controllers.dirs)
  PROPERTIES   how many files of it CRIU kept (controllers.dirs.properties)"
);

pub(super) const SCAN: &str = with_input!(
    "\
Columns:
  IMAGE    the image
  RECORD   which record, from 0
  FIELD    the field's path in the record
  NAMES    what the text names: cgroup, pod uid, container id, node path, volume timestamp, host name, address, security label, node
  VALUE    the whole text"
);

pub(super) const DIFF: &str = "\
Columns:
  IMAGE    the image
  RECORD   what tells the record apart: id, fd, mnt_id, pid, ...
  FIELD    the field's path in the record; nothing when the whole record or image is meant
  A, B     its values, `(none)` where it is not there

Input:
Two image files of one kind, or two of: image directory, checkpoint archive.

Exit codes:
  0  there are no differences
  1  there are
  2  the command line is wrong
  3  the input cannot be read
  4  the output cannot be written";
