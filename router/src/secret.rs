//! Secrets that stand in files: how they are read, and what is said about who else may read them.
//!
//! Gateway and worker read the link secret by the same rules; the gateway its admin token, too.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use roost_protocol::auth;

/// Longest file that is read, in bytes: a secret is a line, and a device would have no end.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A secret as it stands in a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// The secret.
    pub bytes: Vec<u8>,
    /// What should be mended, though it does not keep anybody from starting.
    pub warning: Option<String>,
}

/// Says nothing of the secret itself.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("warning", &self.warning).finish_non_exhaustive()
    }
}

/// The link secret in the file at `path`, without the line ends behind it.
///
/// # Errors
/// As [`read`], and if it is shorter than [`auth::SECRET_BYTES_MIN`]: what is wrong and the remedy, to
/// stand behind the name of the setting and a colon.
pub fn link(path: &Path) -> Result<Secret, String> {
    let Secret { bytes, warning } = read(path)?;
    match auth::secret(&bytes) {
        Ok(secret) => Ok(Secret { bytes: secret.to_vec(), warning }),
        Err(short) => Err(format!(
            "{}: {short}: write a random one, as `head -c 32 /dev/urandom | base64` makes it",
            path.display()
        )),
    }
}

/// The file at `path`, whole.
///
/// Whoever may read it has the secret: where that is more than its owner, [`Secret::warning`] says so
/// and no more, since orchestrators hand secrets out like that. Whoever may write it can choose
/// the secret: a file that everybody may write is refused.
///
/// # Errors
/// It cannot be read, is longer than a secret can be, or everybody may write it: what is wrong and
/// the remedy.
pub fn read(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let unreadable = |error: io::Error| format!("{shown} cannot be read: {error}");
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.mode() & 0o777;
    let is_file = metadata.is_file();
    if is_file && mode & 0o002 != 0 {
        return Err(format!("{shown}: everybody may change it (mode {mode:04o}): `chmod 600 {shown}`"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{shown}: longer than {FILE_BYTES_MAX} bytes: is that the right file?"));
    }
    let others = match mode & 0o066 {
        0 => None,
        loose if loose & 0o006 != 0 => Some("everybody on this machine"),
        _ => Some("its group"),
    };
    let warning = others.filter(|_| is_file).map(|others| {
        format!("{shown}: {others} may read it (mode {mode:04o}); `chmod 600 {shown}` keeps it to its owner")
    });
    Ok(Secret { bytes, warning })
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt,
    };

    use super::*;

    fn file(mode: u32, bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_link_secret_has_at_least_16_bytes_without_its_line_ends() {
        for (written, secret) in [
            (&b"0123456789abcdef"[..], &b"0123456789abcdef"[..]),
            (b"0123456789abcdef\r\n\n", b"0123456789abcdef"),
            (b"\n 0123456789abcd \n", b"\n 0123456789abcd "),
        ] {
            let read = link(file(0o600, written).path()).unwrap();
            assert_eq!((read.bytes.as_slice(), read.warning), (secret, None));
        }
        for (written, bytes) in
            [(&b""[..], 0), (b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n", 0), (b"123456789abcdef\n", 15)]
        {
            let refused = link(file(0o600, written).path()).unwrap_err();
            let expected = format!("the secret has {bytes} bytes, 16 are the least");
            assert!(refused.contains(&expected) && refused.contains("/dev/urandom"), "{refused}");
        }
    }

    #[test]
    fn who_else_may_read_it_is_said_and_who_may_write_it_is_refused() {
        for (mode, expected) in [
            (0o600, None),
            (0o400, None),
            (0o640, Some("its group may read it (mode 0640)")),
            (0o440, Some("its group may read it (mode 0440)")),
            (0o644, Some("everybody on this machine may read it (mode 0644)")),
            (0o444, Some("everybody on this machine may read it (mode 0444)")),
        ] {
            let file = file(mode, b"0123456789abcdef");
            let warning = link(file.path()).unwrap().warning;
            match (&warning, expected) {
                (Some(warning), Some(expected)) => {
                    assert!(warning.contains(expected) && warning.contains("chmod 600"), "{warning}");
                }
                _ => assert_eq!(warning.as_deref(), expected, "{mode:o}"),
            }
        }
        for mode in [0o666, 0o602, 0o777] {
            let refused = link(file(mode, b"0123456789abcdef").path()).unwrap_err();
            assert!(
                refused.contains("everybody may change it") && refused.contains("chmod 600"),
                "{refused}"
            );
        }
    }

    #[test]
    fn what_is_no_file_of_a_secret_is_refused() {
        let missing = read(Path::new("/nonexistent/secret")).unwrap_err();
        assert!(missing.starts_with("/nonexistent/secret cannot be read: No such file"), "{missing}");
        assert!(read(Path::new("/")).unwrap_err().contains("cannot be read"));
        assert!(read(Path::new("/dev/zero")).unwrap_err().contains("longer than"));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", link(file(0o644, b"0123456789abcdef").path()).unwrap());
        assert!(!shown.contains("0123") && !shown.contains("48, 49"), "{shown}");
    }
}
