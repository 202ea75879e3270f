//! State machines as tables: what may follow what. `docs/architecture.md` has diagrams made from them.

use std::fmt::Debug;

/// A step of a state machine.
#[derive(Clone, Copy, Debug)]
pub struct Transition<S> {
    /// The state before.
    pub from: S,
    /// The state after.
    pub to: S,
    /// What happens, in a few words.
    pub cause: &'static str,
}

/// A step, for tables.
pub const fn step<S>(from: S, to: S, cause: &'static str) -> Transition<S> {
    Transition { from, to, cause }
}

/// Whether a table has a step from one state to another.
pub fn allows<S: PartialEq>(table: &[Transition<S>], from: S, to: S) -> bool {
    table.iter().any(|step| step.from == from && step.to == to)
}

/// A table as a state diagram in Mermaid's notation, which renders in Markdown.
pub fn diagram<S: Debug>(table: &[Transition<S>]) -> String {
    let row = |step: &Transition<S>| format!("    {:?} --> {:?}: {}\n", step.from, step.to, step.cause);
    format!("```mermaid\nstateDiagram-v2\n{}```\n", table.iter().map(row).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [Transition<u8>; 2] = [step(1, 2, "up"), step(2, 1, "down again")];

    #[test]
    fn a_table_allows_its_steps_and_no_others() {
        assert!(allows(&TABLE, 1, 2) && allows(&TABLE, 2, 1));
        assert!(!allows(&TABLE, 1, 1) && !allows(&TABLE, 2, 3));
    }

    #[test]
    fn a_diagram_has_a_line_for_each_step() {
        let expected = "```mermaid\nstateDiagram-v2\n    1 --> 2: up\n    2 --> 1: down again\n```\n";
        assert_eq!(diagram(&TABLE), expected);
    }
}
