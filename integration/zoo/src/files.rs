//! Files of all kinds, and what is made with descriptors.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::sys::{self, Result};

type Made = (&'static str, Result<Vec<OwnedFd>>);

pub(crate) fn all(dir: &Path) -> Vec<Made> {
    vec![
        ("files", text(regular(dir))),
        ("a file without a name", text(unlinked(dir))),
        ("a large file without a name", text(large_unlinked(dir))),
        ("a file with another name", text(renamed(dir))),
        ("a pipe with content", text(pipe())),
        ("a named pipe with content", fifo(dir)),
        ("a file in a tmpfs", tmpfs(dir)),
        ("locks", locks(dir)),
        ("eventfd and epoll", eventfd_and_epoll()),
        ("timerfd", sys::timerfd().map(one)),
        ("timers", sys::timers().map(|()| Vec::new())),
        ("signalfd and a waiting signal", sys::signals().map(one)),
        (
            "inotify",
            sys::inotify(&[dir, Path::new("/etc/hosts")]).map(one),
        ),
        ("fanotify", sys::fanotify(&dir.join("regular")).map(one)),
        ("memfd", sys::memfd().map(one)),
        ("a terminal", sys::terminal().map(Vec::from)),
        (
            "a namespace",
            text(File::open("/proc/self/ns/uts").map(|file| vec![file.into()])),
        ),
        ("an AIO ring", sys::aio().map(|()| Vec::new())),
    ]
}

fn one(fd: OwnedFd) -> Vec<OwnedFd> {
    vec![fd]
}

fn text<T>(made: std::io::Result<T>) -> Result<T> {
    made.map_err(|error| error.to_string())
}

fn regular(dir: &Path) -> std::io::Result<Vec<OwnedFd>> {
    let path = dir.join("regular");
    fs::write(&path, "0123456789")?;
    let mut at_four = OpenOptions::new().read(true).write(true).open(&path)?;
    at_four.seek(SeekFrom::Start(4))?;
    let append = OpenOptions::new()
        .append(true)
        .create(true)
        .open(dir.join("log"))?;
    let again = at_four.try_clone()?;
    // A name that is not UTF-8.
    let odd = std::os::unix::ffi::OsStrExt::from_bytes(b"odd-\xff");
    let odd = File::create(dir.join::<&std::ffi::OsStr>(odd))?;
    Ok(vec![
        at_four.into(),
        again.into(),
        append.into(),
        File::open(dir)?.into(),
        odd.into(),
    ])
}

fn unlinked(dir: &Path) -> std::io::Result<Vec<OwnedFd>> {
    let path = dir.join("ghost");
    let mut file = File::create(&path)?;
    file.write_all(b"boo")?;
    fs::remove_file(&path)?;
    Ok(vec![file.into()])
}

fn large_unlinked(dir: &Path) -> std::io::Result<Vec<OwnedFd>> {
    let path = dir.join("large-ghost");
    let file = File::create(&path)?;
    file.write_all_at(&[b'a'; 4096], 0)?;
    file.write_all_at(&[b'z'; 4096], 256 << 10)?;
    file.set_len(512 << 10)?;
    fs::remove_file(&path)?;
    Ok(vec![file.into()])
}

fn renamed(dir: &Path) -> std::io::Result<Vec<OwnedFd>> {
    let path = dir.join("first-name");
    let file = File::create(&path)?;
    fs::hard_link(&path, dir.join("second-name"))?;
    fs::remove_file(&path)?;
    Ok(vec![file.into()])
}

fn pipe() -> std::io::Result<Vec<OwnedFd>> {
    let (reader, mut writer) = std::io::pipe()?;
    writer.write_all(b"in the pipe")?;
    Ok(vec![reader.into(), writer.into()])
}

fn fifo(dir: &Path) -> Result<Vec<OwnedFd>> {
    let path = dir.join("fifo");
    sys::mkfifo(&path)?;
    let mut both = text(OpenOptions::new().read(true).write(true).open(&path))?;
    text(both.write_all(b"in the named pipe"))?;
    Ok(vec![both.into()])
}

fn tmpfs(dir: &Path) -> Result<Vec<OwnedFd>> {
    let path = dir.join("tmpfs");
    text(fs::create_dir_all(&path))?;
    sys::mount_tmpfs(&path)?;
    let mut file = text(File::create(path.join("file")))?;
    text(file.write_all(b"in the tmpfs"))?;
    Ok(vec![file.into()])
}

fn locks(dir: &Path) -> Result<Vec<OwnedFd>> {
    let file = text(File::create(dir.join("locked")))?.into();
    sys::locks(&file)?;
    Ok(vec![file])
}

fn eventfd_and_epoll() -> Result<Vec<OwnedFd>> {
    let event = sys::eventfd(5)?;
    let epoll = sys::epoll(&event)?;
    Ok(vec![event, epoll])
}
