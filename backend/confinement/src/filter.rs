//! Lists of system calls, and how the kernel is given them (seccomp(2)).
use crate::ConfinementError;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

/// What an argument has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Condition {
    argument: u8,
    test: Test,
}

#[derive(Clone, Copy, Debug)]
enum Test {
    Is(u64),
    IsNot(u64),
    /// Of these bits, those and no others are set.
    Bits(u64, u64),
}

impl Condition {
    /// The argument, counted from 0, is this. The kernel takes every argument that is asked for here for 32 bits.
    pub(crate) fn is(argument: u8, value: u64) -> Condition {
        Condition { argument, test: Test::Is(value) }
    }

    /// It is anything but this.
    pub(crate) fn is_not(argument: u8, value: u64) -> Condition {
        Condition { argument, test: Test::IsNot(value) }
    }

    /// Of the bits in `mask` it has these.
    pub(crate) fn has_bits(argument: u8, mask: u64, value: u64) -> Condition {
        Condition { argument, test: Test::Bits(mask, value) }
    }

    fn compile(self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let (op, value) = match self.test {
            Test::Is(value) => (SeccompCmpOp::Eq, value),
            Test::IsNot(value) => (SeccompCmpOp::Ne, value),
            Test::Bits(mask, value) => (SeccompCmpOp::MaskedEq(mask), value),
        };
        SeccompCondition::new(self.argument, SeccompCmpArgLen::Dword, op, value)
    }
}

/// All of these have to hold.
pub(crate) type Rule = Vec<Condition>;

/// What is allowed; and what the kernel is to say that it does not know.
#[derive(Clone, Debug, Default)]
pub(crate) struct List {
    /// By the call's number: it is allowed if one of the rules holds, or if there is none.
    allowed: BTreeMap<i64, Vec<Rule>>,
    unknown: Vec<i64>,
    /// What fails with EPERM, without anybody's being told.
    silent: BTreeMap<i64, Vec<Rule>>,
}

impl List {
    pub(crate) fn allow(&mut self, call: i64) {
        self.allowed.insert(call, Vec::new());
    }

    /// Allows it for these arguments, besides what is allowed already.
    pub(crate) fn allow_if(&mut self, call: i64, rule: impl Into<Rule>) {
        self.allowed.entry(call).or_default().push(rule.into());
    }

    /// Where the condition holds, or always, it fails with EPERM and no signal; else it is allowed.
    pub(crate) fn refuse_if(&mut self, call: i64, condition: Option<Condition>) {
        self.allow(call);
        self.silent.insert(call, condition.into_iter().map(|condition| vec![condition]).collect());
    }

    /// It fails with ENOSYS, by which the C library takes an older call.
    pub(crate) fn unknown(&mut self, call: i64) {
        self.allow(call);
        self.unknown.push(call);
    }
}

/// Puts a list in force in every thread. Whatever is not on it raises SIGSYS in the thread that has asked. False: this architecture's calls are
/// not known here.
pub(crate) fn install(list: &List) -> Result<bool, ConfinementError> {
    if !is_known_architecture() {
        log::warn!("system calls are not confined: nobody has made a list for this processor");
        return Ok(false);
    }
    let numbers: Vec<(i64, Vec<Rule>)> = list.unknown.iter().map(|&call| (call, Vec::new())).collect();
    let unknown = compile(numbers, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?;
    let silent = compile(list.silent.clone(), SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))?;
    let listed = compile(list.allowed.clone(), SeccompAction::Trap, SeccompAction::Allow)?;
    // What one of them refuses is refused.
    for program in [&unknown, &silent, &listed] {
        seccompiler::apply_filter_all_threads(program).map_err(|e| ConfinementError(format!("seccomp: {e}")))?;
    }
    Ok(true)
}

/// A program that does `listed` for calls of the list, and else `other`.
pub(crate) fn compile(
    calls: impl IntoIterator<Item = (i64, Vec<Rule>)>,
    other: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, ConfinementError> {
    let wrong = |e: seccompiler::BackendError| ConfinementError(format!("seccomp: {e}"));
    let mut rules = BTreeMap::new();
    for (call, alternatives) in calls {
        let compiled: Result<Vec<SeccompRule>, _> = alternatives
            .into_iter()
            .map(|rule| {
                let conditions: Result<Vec<_>, _> = rule.into_iter().map(Condition::compile).collect();
                SeccompRule::new(conditions?)
            })
            .collect();
        rules.insert(call, compiled.map_err(wrong)?);
    }
    let architecture = std::env::consts::ARCH.try_into().map_err(wrong)?;
    let filter = SeccompFilter::new(rules, other, listed, architecture).map_err(wrong)?;
    filter.try_into().map_err(wrong)
}

pub(crate) fn is_known_architecture() -> bool {
    cfg!(any(target_arch = "x86_64", target_arch = "aarch64"))
}
