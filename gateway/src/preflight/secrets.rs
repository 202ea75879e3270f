//! The files with secrets: what a start takes, and `check` looks at.

use roost_router::secret::{self, Secret};

use crate::config::Config;

/// Bytes of the shortest admin token.
const TOKEN_BYTES_MIN: usize = 16;

/// The link secret; none where none is configured. A warning names its key, as an error does.
///
/// # Errors
/// What is wrong with the file, and the remedy.
pub fn link(config: &Config) -> Result<Option<Secret>, String> {
    let path = &config.link_secret_file;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    named("link_secret_file", secret::link(path)).map(Some)
}

/// The token for `/api/`; none where none is configured.
///
/// # Errors
/// As [`link`].
pub fn admin_token(config: &Config) -> Result<Option<Secret>, String> {
    let path = &config.admin_token_file;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let Secret { bytes, warning } = named("admin_token_file", secret::read(path))?;
    let token = bytes.trim_ascii();
    if token.len() < TOKEN_BYTES_MIN || !token.iter().all(u8::is_ascii_graphic) {
        return Err(format!(
            "admin_token_file {}: a token has at least {TOKEN_BYTES_MIN} printable characters and no space; \
             `head -c 32 /dev/urandom | base64 > FILE` makes one",
            path.display()
        ));
    }
    Ok(Some(Secret { bytes: token.to_vec(), warning }))
}

fn named(key: &str, read: Result<Secret, String>) -> Result<Secret, String> {
    match read {
        Ok(Secret { bytes, warning }) => {
            Ok(Secret { bytes, warning: warning.map(|warning| format!("{key} {warning}")) })
        }
        Err(error) => Err(format!("{key} {error}")),
    }
}
