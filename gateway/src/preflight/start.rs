//! Everything a start would do with files, addresses and names, looked at without doing it.

use std::{
    fs, io,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::fs::FileTypeExt},
    path::Path,
};

use roost_router::listen;
use rustix::fs::{Access, access};

use super::{
    holder::{self, Holder},
    secrets,
};
use crate::config::{Config, Loaded};

/// What a start would meet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// What keeps it from starting, with the remedy.
    pub(super) faults: Vec<String>,
    /// What it would log, or run into later.
    pub(super) warnings: Vec<String>,
    /// What is no fault but good to know.
    pub(super) notes: Vec<String>,
    /// A gateway holds one of the addresses or the hand-over socket: this configuration is for it to
    /// reload, or for its successor.
    pub(super) beside_gateway: bool,
}

/// Looks at everything. Keys whose value had to be refused are left out. `unresolved` says which
/// workers' names have no address now.
pub(super) fn look(loaded: &Loaded, unresolved: impl FnOnce(&Config) -> Vec<String>) -> Findings {
    let mut findings = Findings::default();
    let config = &loaded.config;
    if loaded.is_sound("link_secret_file") {
        findings.secret(secrets::link(config));
    }
    if loaded.is_sound("admin_token_file") {
        findings.secret(secrets::admin_token(config));
    }
    if loaded.is_sound("handover_socket") && !config.handover_socket.as_os_str().is_empty() {
        findings.handover_socket(&config.handover_socket);
    }
    // Addresses stay bound until all are, so that none is had twice.
    let mut bound = Vec::new();
    if loaded.is_sound("listen") && std::env::var_os("LISTEN_FDS").is_none() {
        for listener in &config.listen {
            findings.address(listener.address, "listen", "--listen", &mut bound);
        }
    }
    if loaded.is_sound("admin_listen") {
        for &address in &config.admin_listen {
            findings.address(address, "admin_listen", "--admin-listen", &mut bound);
        }
    }
    if loaded.is_sound("workers") {
        if config.workers.is_empty() {
            findings.directory("TMPDIR", &std::env::temp_dir(), "the worker inside has its socket there");
        }
        findings.warnings.extend(unresolved(config));
    }
    findings
}

impl Findings {
    /// A fault that a running gateway may be the cause of, by what it takes itself.
    pub(super) fn shared_fault(&mut self, fault: String) {
        match self.beside_gateway {
            true => self.warnings.push(format!("{fault} (beside the running gateway, which has its share)")),
            false => self.faults.push(fault),
        }
    }

    fn secret(&mut self, read: Result<Option<roost_router::secret::Secret>, String>) {
        match read {
            Ok(secret) => self.warnings.extend(secret.and_then(|secret| secret.warning)),
            Err(fault) => self.faults.push(fault),
        }
    }

    fn handover_socket(&mut self, path: &Path) {
        let shown = path.display();
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => match holder::of_path(Path::new("/proc"), path) {
                Some(Holder::Gateway { pid }) => {
                    self.beside_gateway = true;
                    self.notes.push(format!("handover_socket {shown}: a running gateway has it, process {pid}"));
                }
                Some(Holder::Other(who)) => self.faults.push(format!(
                    "handover_socket {shown}: {who} listens there, and is no gateway: choose another path"
                )),
                None => {}
            },
            Ok(_) => self.faults.push(format!(
                "handover_socket {shown}: something that is no socket has this path: remove it, or choose another"
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.faults.push(format!("handover_socket {shown} cannot be looked at: {error}")),
        }
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        self.directory("handover_socket", directory, "the socket is made there");
    }

    /// A directory in which something is to be made.
    fn directory(&mut self, key: &str, directory: &Path, why: &str) {
        let shown = directory.display();
        let usable = match fs::metadata(directory) {
            Ok(metadata) if !metadata.is_dir() => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            Ok(_) => access(directory, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = usable {
            self.faults.push(format!(
                "{key}: the directory {shown} cannot be used ({error}), but {why}: make it, and let this user \
                 write to it"
            ));
        }
    }

    fn address(&mut self, address: SocketAddr, key: &str, flag: &str, bound: &mut Vec<OwnedFd>) {
        let error = match listen::bound(address) {
            Ok(socket) => return bound.push(socket),
            Err(error) => error,
        };
        if error.kind() != io::ErrorKind::AddrInUse {
            return self.faults.push(format!("{key}: {}", listen::explain(&error, address, flag)));
        }
        match holder::of_address(Path::new("/proc"), address) {
            Some(Holder::Gateway { pid }) => {
                self.beside_gateway = true;
                self.notes.push(format!("{key}: {address}: a running gateway has it, process {pid}"));
            }
            Some(Holder::Other(who)) => {
                self.faults
                    .push(format!("{key}: {} (held by {who})", listen::explain(&error, address, flag)));
            }
            None => self.faults.push(format!("{key}: {}", listen::explain(&error, address, flag))),
        }
    }
}
