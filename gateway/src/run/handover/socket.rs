//! The Unix socket at `handover_socket`: what stands there, who is at its other end, and its making.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
};

use anyhow::{Context, Result, bail};
use rustix::{
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt,
    },
    process::geteuid,
};

/// Callers that may wait to be looked at.
const BACKLOG: i32 = 128;

/// Whether a socket stands at `path`.
///
/// # Errors
/// Something else does, which is not ours to remove; or that cannot be told.
pub(in crate::run) fn inspect(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => Ok(true),
        Ok(found) => {
            let what = match found.file_type() {
                kind if kind.is_dir() => "a directory",
                kind if kind.is_symlink() => "a symbolic link",
                kind if kind.is_file() => "a regular file",
                _ => "something else",
            };
            bail!(
                "handover_socket {} is {what}, not a socket, and is left as it is: name another path, or \
                 remove it",
                path.display()
            )
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("handover_socket {}", path.display())),
    }
}

/// Connects without waiting: a full backlog is WouldBlock.
pub(super) fn dial(path: &Path) -> io::Result<UnixStream> {
    let socket = make()?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// Listens at `path`, for this user alone, in place of a socket that a process left behind.
pub(super) fn listen_at(path: &Path) -> Result<UnixListener> {
    let context = || format!("handover_socket {} cannot be made", path.display());
    if inspect(path)? {
        if dial(path).is_ok() {
            bail!("handover_socket {}: another process serves there; name another path", path.display());
        }
        fs::remove_file(path).with_context(context)?;
    }
    let made = || -> io::Result<UnixListener> {
        let socket = make()?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Nobody can connect before it listens.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listen(&socket, BACKLOG)?;
        Ok(UnixListener::from(socket))
    };
    made().with_context(context)
}

fn make() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// Whether the process at the other end runs as this user, or as root (SO_PEERCRED, unix(7)).
pub(super) fn is_trusted(stream: &UnixStream) -> io::Result<bool> {
    let peer = sockopt::socket_peercred(stream)?.uid;
    Ok(peer == geteuid() || peer.is_root())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn only_a_socket_that_nobody_serves_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("handover");
        let first = listen_at(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{mode:o}");
        let error = listen_at(&path).unwrap_err().to_string();
        assert!(error.contains("another process serves there"), "{error}");
        drop(first);
        listen_at(&path).unwrap();
    }

    #[test]
    fn files_directories_and_links_are_left_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "precious").unwrap();
        fs::create_dir(at("directory")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink(at("socket"), at("link")).unwrap();
        for (name, what) in
            [("file", "a regular file"), ("directory", "a directory"), ("link", "a symbolic link")]
        {
            let error = listen_at(&at(name)).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "precious");
        assert!(at("directory").is_dir() && at("link").is_symlink());
    }

    #[test]
    fn a_directory_that_is_not_there_and_a_path_too_long_are_named() {
        for path in [Path::new("/nonexistent/handover").to_owned(), Path::new("/tmp").join("x".repeat(120))] {
            let error = format!("{:#}", listen_at(&path).unwrap_err());
            assert!(
                error.contains(&path.display().to_string()) && error.contains("cannot be made: "),
                "{error}"
            );
        }
    }

    #[test]
    fn a_process_of_this_user_is_trusted() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(is_trusted(&one).unwrap());
    }
}
