//! What this kernel's io_uring can do, found by probing and trying, never by its version.

use std::{fmt, str::FromStr};

use io_uring::{IoUring, Parameters, Probe, opcode};

use super::{error::Error, trial};

/// A set of features that the driver has a path for; each contains the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// What 5.10.162 imported from 5.15; clients are plain file descriptors.
    Base,
    /// 6.1: completions are worked on when the shard asks for them.
    Deferred,
    /// After 6.12: clients are direct descriptors, without a number in the process's table.
    Direct,
}

/// The highest tier that may be used, as `--features-max` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum FeaturesMax {
    /// As if there were no io_uring: shows how the refusal looks.
    None,
    /// At most [`Tier::Base`].
    Base,
    /// At most [`Tier::Deferred`].
    Deferred,
    /// Whatever the kernel offers.
    #[default]
    Direct,
}

/// What became of one feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There, and in use.
    Used,
    /// Not there, or not as needed.
    Missing,
    /// Not looked for, because `--features-max` says so.
    Masked,
}

/// One feature, and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Finding {
    /// The tier it belongs to.
    pub tier: Tier,
    /// Its name in the kernel's headers, or a short one.
    pub name: &'static str,
    /// What it buys.
    pub why: &'static str,
    /// What became of it.
    pub state: State,
}

/// The features in use. Every ring of the process is made by the same.
#[derive(Clone, Debug)]
pub struct Features {
    tier: Tier,
    banks: bool,
    accepts_wait_first: bool,
    findings: Vec<Finding>,
}

/// A feature bit that every tier needs.
struct Bit {
    name: &'static str,
    why: &'static str,
    is_set: fn(&Parameters) -> bool,
}

/// An operation that every tier needs.
struct Operation {
    name: &'static str,
    why: &'static str,
    code: u8,
}

const BITS: [Bit; 4] = [
    Bit {
        name: "IORING_FEAT_NODROP",
        why: "lose no completion when a queue is full",
        is_set: Parameters::is_feature_nodrop,
    },
    Bit {
        name: "IORING_FEAT_SUBMIT_STABLE",
        why: "reuse a worker's address once its connect is submitted",
        is_set: Parameters::is_feature_submit_stable,
    },
    Bit {
        name: "IORING_FEAT_FAST_POLL",
        why: "wait for sockets without a kernel thread each",
        is_set: Parameters::is_feature_fast_poll,
    },
    Bit { name: "IORING_FEAT_EXT_ARG", why: "wait with a deadline", is_set: Parameters::is_feature_ext_arg },
];

const OPERATIONS: [Operation; 9] = [
    Operation { name: "IORING_OP_POLL_ADD", why: "park idle clients", code: opcode::PollAdd::CODE },
    Operation { name: "IORING_OP_ACCEPT", why: "accept clients", code: opcode::Accept::CODE },
    Operation { name: "IORING_OP_CONNECT", why: "reach workers", code: opcode::Connect::CODE },
    Operation { name: "IORING_OP_RECV", why: "receive", code: opcode::Recv::CODE },
    Operation { name: "IORING_OP_SEND", why: "send", code: opcode::Send::CODE },
    Operation { name: "IORING_OP_READ", why: "be woken by other rings", code: opcode::Read::CODE },
    Operation { name: "IORING_OP_SHUTDOWN", why: "say goodbye", code: opcode::Shutdown::CODE },
    Operation { name: "IORING_OP_CLOSE", why: "close clients", code: opcode::Close::CODE },
    Operation {
        name: "IORING_OP_ASYNC_CANCEL",
        why: "take back what is armed",
        code: opcode::AsyncCancel::CODE,
    },
];

const DEFERRED: (&str, &str) = (
    "SINGLE_ISSUER, DEFER_TASKRUN, SUBMIT_ALL",
    "completions are worked on in batches when the shard asks: half the CPU per message, small queues",
);
const SIGNALS: (&str, &str) = (
    "eventfd signals",
    "a shard of many rings; without them all clients of a shard are on one, as plain descriptors",
);
const SPARSE: (&str, &str) =
    ("sparse file tables", "a table of direct descriptors for the slots that are not taken yet");
const RELEASE: (&str, &str) = (
    "direct slots released one by one",
    "clients take no file descriptor; a closed one is released although others stay parked",
);
const CONNECTS: &str = "clients that connect take no file descriptor";
const WAIT_FIRST: (&str, &str) =
    ("IORING_ACCEPT_POLL_FIRST", "an accept waits for a client before it makes a socket for one");

impl Features {
    /// Finds out what this kernel can do, up to `max`.
    ///
    /// Takes some 10 ms, and a quarter of a second more for a trial that fails.
    ///
    /// # Errors
    /// io_uring is refused, or lacks what the base tier needs.
    pub fn detect(max: FeaturesMax) -> Result<Self, Error> {
        if max == FeaturesMax::None {
            return Err(Error::Masked);
        }
        let mut findings = base()?;
        let mut find = |tier, (name, why), state: State| {
            findings.push(Finding { tier, name, why, state });
            state == State::Used
        };
        // What a tier needs is tried only if all before it is there and the tier is wanted.
        let seek = |tier: Tier, is_possible: bool, is_there: fn() -> bool| match () {
            () if max < FeaturesMax::from(tier) => State::Masked,
            () if is_possible && is_there() => State::Used,
            () => State::Missing,
        };
        let deferred = find(Tier::Deferred, DEFERRED, seek(Tier::Deferred, true, trial::deferred_rings));
        // Whether a shard may have several rings depends on the kind of rings that it has.
        let ring_tier = if deferred { Tier::Deferred } else { Tier::Base };
        let banks = find(
            ring_tier,
            SIGNALS,
            seek(
                ring_tier,
                true,
                match deferred {
                    true => trial::deferred_rings_signal,
                    false => trial::plain_rings_signal,
                },
            ),
        );
        let is_possible = deferred && banks;
        let sparse = find(Tier::Direct, SPARSE, seek(Tier::Direct, is_possible, trial::sparse_tables));
        let release = seek(Tier::Direct, sparse, trial::direct_slots_release_alone);
        let direct = find(Tier::Direct, RELEASE, release);
        let accepts_wait_first =
            find(Tier::Direct, WAIT_FIRST, seek(Tier::Direct, direct, trial::accepts_wait_first));
        let tier = if direct { Tier::Direct } else { ring_tier };
        Ok(Self { tier, banks, accepts_wait_first, findings })
    }

    /// As [`Self::detect`], for a program whose slots connect by themselves
    /// ([`super::UringDriver::connect`]): clients are direct descriptors only where that works on them.
    ///
    /// # Errors
    /// As [`Self::detect`].
    pub fn detect_to_connect(max: FeaturesMax) -> Result<Self, Error> {
        let mut features = Self::detect(max)?;
        if features.direct() {
            for (name, is_there) in trial::direct_connect_steps() {
                let state = if is_there { State::Used } else { State::Missing };
                features.findings.push(Finding { tier: Tier::Direct, name, why: CONNECTS, state });
                if !is_there {
                    features.tier = Tier::Deferred;
                }
            }
        }
        Ok(features)
    }

    /// The tier in use.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Rings are SINGLE_ISSUER and DEFER_TASKRUN.
    pub fn deferred(&self) -> bool {
        self.tier >= Tier::Deferred
    }

    /// A shard may have several rings. If not, it has one for all its slots.
    pub fn banks(&self) -> bool {
        self.banks
    }

    /// Clients are direct descriptors.
    pub fn direct(&self) -> bool {
        self.tier >= Tier::Direct
    }

    /// An accept can wait for a client before it tries.
    pub(super) fn accepts_wait_first(&self) -> bool {
        self.accepts_wait_first
    }

    /// The first feature that is not in use, and kept the tier from being higher, if any.
    pub fn lacks(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.state != State::Used)
    }

    /// Every feature that was looked for, in order of tiers.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

/// Checks everything that has no substitute.
fn base() -> Result<Vec<Finding>, Error> {
    let mut ring = trial::build(&IoUring::builder()).map_err(Error::refused)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => {
            Error::Missing { feature: "IORING_REGISTER_PROBE", why: "ask which operations there are" }
        }
        _ => Error::refused(error),
    })?;
    trial::round_trip(&mut ring).map_err(Error::refused)?;
    let bits = BITS.iter().map(|bit| (bit.name, bit.why, (bit.is_set)(ring.params())));
    let operations = OPERATIONS.iter().map(|op| (op.name, op.why, probe.is_supported(op.code)));
    require(bits.chain(operations))
}

/// Findings if all are there, else the first that is not.
fn require(
    features: impl Iterator<Item = (&'static str, &'static str, bool)>,
) -> Result<Vec<Finding>, Error> {
    features
        .map(|(name, why, is_there)| match is_there {
            true => Ok(Finding { tier: Tier::Base, name, why, state: State::Used }),
            false => Err(Error::Missing { feature: name, why }),
        })
        .collect()
}

impl From<Tier> for FeaturesMax {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::Base => Self::Base,
            Tier::Deferred => Self::Deferred,
            Tier::Direct => Self::Direct,
        }
    }
}

impl FromStr for FeaturesMax {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::None, Self::Base, Self::Deferred, Self::Direct]
            .into_iter()
            .find(|max| max.to_string() == text)
            .ok_or_else(|| format!("{text:?} is no feature tier: base, deferred or direct"))
    }
}

impl fmt::Display for FeaturesMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Base => "base",
            Self::Deferred => "deferred",
            Self::Direct => "direct",
        })
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        FeaturesMax::from(*self).fmt(f)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Used => "used",
            Self::Missing => "missing",
            Self::Masked => "masked by --features-max",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, {} ({})", self.tier, self.name, self.state, self.why)
    }
}

/// One line for people: the tier, what it means, and the first thing that kept it from being
/// higher.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients = if self.direct() { "direct descriptors" } else { "plain file descriptors" };
        write!(f, "io_uring tier {}, clients on {clients}", self.tier)?;
        match self.lacks() {
            Some(finding) => write!(f, " ({}: {})", finding.name, finding.state),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_feature_is_named_with_its_purpose_and_a_remedy() {
        let found = [("IORING_OP_SEND", "send", true), ("IORING_OP_SHUTDOWN", "say goodbye", false)];
        let line = require(found.into_iter()).unwrap_err().to_string();
        assert!(line.contains("IORING_OP_SHUTDOWN") && line.contains("say goodbye"), "{line}");
        assert!(line.contains("5.10.162") && !line.contains('\n'), "{line}");
    }

    #[test]
    fn tiers_parse_back_from_their_names() {
        for max in [FeaturesMax::None, FeaturesMax::Base, FeaturesMax::Deferred, FeaturesMax::Direct] {
            assert_eq!(max.to_string().parse(), Ok(max));
        }
        assert!("fast".parse::<FeaturesMax>().unwrap_err().contains("deferred"));
    }

    #[test]
    fn a_mask_is_obeyed_and_said() {
        let features = Features::detect(FeaturesMax::Base).expect("io_uring");
        assert_eq!(features.tier(), Tier::Base);
        assert!(features.to_string().contains("masked by --features-max"), "{features}");
        assert!(matches!(Features::detect(FeaturesMax::None), Err(Error::Masked)));
    }
}
