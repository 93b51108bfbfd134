//! System calls that fail, for tests of what else fails only when the machine has too little of something.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule};

/// From now on, this thread and those that it starts get `errno` from the system call of this number.
pub(crate) fn deny(call: i64, errno: i32) {
    deny_where(call, Vec::new(), errno);
}

/// As [`deny`], where one of these rules holds for the arguments, or if there are none.
pub(crate) fn deny_where(call: i64, rules: Vec<SeccompRule>, errno: i32) {
    let filter = SeccompFilter::new(
        [(call, rules)].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}
