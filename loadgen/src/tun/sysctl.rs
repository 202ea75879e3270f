//! Kernel settings that a run needs, and their return to what they were.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, Once, PoisonError},
};

use anyhow::Context;

/// A setting that was changed.
///
/// The file stays open: what it stands for in the namespace where it was opened, it keeps
/// standing for, wherever the thread that restores it may be by then.
#[derive(Debug)]
struct Changed {
    path: PathBuf,
    file: File,
    before: String,
}

/// All that is changed at present, for the panic hook: in a release build a panic runs no
/// destructors.
static CHANGED: Mutex<Vec<Changed>> = Mutex::new(Vec::new());

fn changed() -> MutexGuard<'static, Vec<Changed>> {
    CHANGED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn path_of(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

/// Reads a setting; `None` where there is no such one.
pub(super) fn read(name: &str) -> Option<String> {
    Some(fs::read_to_string(path_of(name)).ok()?.trim().to_owned())
}

/// Reads a setting of one number.
pub(super) fn read_number(name: &str) -> Option<i64> {
    read(name)?.parse().ok()
}

/// Changes a setting for good. To be used inside a namespace of our own only.
pub(super) fn write(name: &str, value: &str) -> anyhow::Result<()> {
    let path = path_of(name);
    fs::write(&path, value).with_context(|| format!("setting {name} to {value} ({})", path.display()))
}

/// Changes settings and puts them back when dropped, or when the process panics.
#[derive(Debug, Default)]
pub(super) struct Restore {
    paths: Vec<PathBuf>,
}

impl Restore {
    /// Changes a setting until this is dropped. Returns what it was.
    pub(super) fn change(&mut self, name: &str, value: &str) -> anyhow::Result<String> {
        static HOOK: Once = Once::new();
        HOOK.call_once(restore_on_panic);
        let path = path_of(name);
        let what = || format!("setting {name} to {value} ({})", path.display());
        let mut file = OpenOptions::new().read(true).write(true).open(&path).with_context(what)?;
        let mut before = String::new();
        file.read_to_string(&mut before).with_context(what)?;
        let before = before.trim().to_owned();
        set(&file, value).with_context(what)?;
        changed().push(Changed { path: path.clone(), file, before: before.clone() });
        self.paths.push(path);
        Ok(before)
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        let mut all = changed();
        for path in self.paths.drain(..).rev() {
            if let Some(at) = all.iter().rposition(|one| one.path == path) {
                restore(&all.remove(at));
            }
        }
    }
}

fn set(mut file: &File, value: &str) -> std::io::Result<()> {
    file.rewind()?;
    file.write_all(value.as_bytes())
}

fn restore(one: &Changed) {
    if let Err(error) = set(&one.file, &one.before) {
        let (path, before) = (one.path.display(), &one.before);
        crate::say::note(format_args!("{path} could not be set back to {before}: {error}"));
    }
}

fn restore_on_panic() {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // A panic that is caught is another matter: only an aborting build ends here.
        if cfg!(panic = "abort")
            && let Ok(all) = CHANGED.try_lock()
        {
            all.iter().rev().for_each(restore);
        }
        next(info);
    }));
}
