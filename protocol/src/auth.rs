//! The mutual proof of the link secret (SPEC.md, "Link authentication").

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of a proof: HMAC-SHA256 (RFC 2104, FIPS 180-4).
pub const PROOF_BYTES: usize = 32;

/// Bytes of the shortest secret that either side takes.
pub const SECRET_BYTES_MIN: usize = 16;

/// Why bytes are no link secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret has {0} bytes, {SECRET_BYTES_MIN} are the least")]
pub struct SecretTooShort(pub usize);

/// The link secret in the bytes of a file: line ends behind it are an editor's, any other byte may be
/// part of a random secret.
///
/// # Errors
/// There are fewer than [`SECRET_BYTES_MIN`] bytes.
pub fn secret(file: &[u8]) -> Result<&[u8], SecretTooShort> {
    let end = file.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
    if end < SECRET_BYTES_MIN { Err(SecretTooShort(end)) } else { Ok(&file[..end]) }
}

/// Which side of the link proves that it knows the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The gateway, in LINK_PROOF.
    Gateway,
    /// The worker, in LINK_WELCOME.
    Worker,
}

fn mac(secret: &[u8], side: Side, hello: &[u8], welcome: &[u8]) -> Hmac<Sha256> {
    let label: &[u8] = match side {
        Side::Gateway => b"roost-link-v1 gateway",
        Side::Worker => b"roost-link-v1 worker",
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(label);
    mac.update(hello);
    mac.update(welcome);
    mac
}

/// The proof of `side` over the payload of LINK_HELLO and the payload of LINK_WELCOME without
/// its proof field. Both nonces stand in them, so a proof is worth nothing on another link.
pub fn prove(secret: &[u8], side: Side, hello: &[u8], welcome: &[u8]) -> [u8; PROOF_BYTES] {
    mac(secret, side, hello, welcome).finalize().into_bytes().into()
}

/// Whether `proof` is the proof of `side`; takes the same time wherever they differ.
pub fn verify(secret: &[u8], side: Side, hello: &[u8], welcome: &[u8], proof: &[u8]) -> bool {
    mac(secret, side, hello, welcome).verify_slice(proof).is_ok()
}

#[cfg(test)]
mod tests {
    use super::{SecretTooShort, Side, prove, secret, verify};

    #[test]
    fn a_secret_is_what_stands_before_the_line_ends() {
        assert_eq!(secret(b"0123456789abcdef\r\n"), Ok(&b"0123456789abcdef"[..]));
        assert_eq!(secret(b"0123456789abcde\n\n\n"), Err(SecretTooShort(15)));
        assert_eq!(secret(b""), Err(SecretTooShort(0)));
    }

    #[test]
    fn a_proof_binds_secret_side_and_both_payloads() {
        let proof = prove(b"secret", Side::Gateway, b"hello", b"welcome");
        assert!(verify(b"secret", Side::Gateway, b"hello", b"welcome", &proof));
        assert!(!verify(b"Secret", Side::Gateway, b"hello", b"welcome", &proof));
        assert!(!verify(b"secret", Side::Worker, b"hello", b"welcome", &proof));
        assert!(!verify(b"secret", Side::Gateway, b"hallo", b"welcome", &proof));
        assert!(!verify(b"secret", Side::Gateway, b"hello", b"welcomE", &proof));
        assert!(!verify(b"secret", Side::Gateway, b"hello", b"welcome", &proof[..31]));
        assert!(!verify(b"secret", Side::Gateway, b"hello", b"welcome", b""));
    }
}
