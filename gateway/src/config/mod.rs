//! What the operator wants: one TOML file, overridden by the environment, then by flags.
//!
//! * [`keys`]: every key with its default, range and description, in one table; the struct
//!   [`Config`], the checks, `roost.example.toml`'s test and the reload all read it.
//! * [`value`]: the types of values that are not plain numbers.
//! * [`mod@load`]: the layers, and errors that name file, line and remedy.
//! * [`refuse`]: what is wrong with a single value.
//! * [`check`]: what a single range cannot say.
//! * `shares`: what each shard gets.
//! * [`reload`]: which changes take effect in a running gateway.
//! * [`cli`]: the flags.

pub mod check;
pub mod cli;
pub mod keys;
pub mod load;
mod refuse;
pub mod reload;
mod shares;
pub mod value;

pub use cli::{Cli, Command, Options};
pub use keys::{Config, KEYS, Key, When};
pub use load::{ConfigError, Environment, Loaded, Source, load, load_all};
pub use reload::Changes;
pub use value::{
    Auto, EmbeddedHandler, FullPolicy, ListenerSpec, LogFormat, LogLevel, NoWorkerPolicy, WorkerAddress,
    WorkerSpec,
};
