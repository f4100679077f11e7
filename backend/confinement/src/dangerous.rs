//! What no program of a network card's needs.
use crate::ConfinementError;
use crate::filter::{compile, is_known_architecture};
use crate::sys;
use seccompiler::SeccompAction;

/// The calls, with their names. The list goes through exec to a newer vonicd and to hooks for ever, so each has to be one that no later
/// version, and nothing that moves an address, can want: mounts and namespaces (`ip netns exec`) are not among them, bpf(2) (`ip vrf exec`)
/// neither.
pub(crate) const DANGEROUS: &[(i64, &str)] = &[
    // Other processes' memory and descriptors.
    (libc::SYS_ptrace, "ptrace"),
    (libc::SYS_process_vm_readv, "process_vm_readv"),
    (libc::SYS_process_vm_writev, "process_vm_writev"),
    (libc::SYS_kcmp, "kcmp"),
    // Another kernel, or parts of one.
    (libc::SYS_kexec_load, "kexec_load"),
    (libc::SYS_kexec_file_load, "kexec_file_load"),
    (libc::SYS_init_module, "init_module"),
    (libc::SYS_finit_module, "finit_module"),
    (libc::SYS_delete_module, "delete_module"),
    (libc::SYS_reboot, "reboot"),
    // What has been the way into the kernel too often.
    (libc::SYS_userfaultfd, "userfaultfd"),
    (libc::SYS_perf_event_open, "perf_event_open"),
    (libc::SYS_add_key, "add_key"),
    (libc::SYS_request_key, "request_key"),
    (libc::SYS_keyctl, "keyctl"),
    // Files by their handles, past the folders that they lie in.
    (libc::SYS_open_by_handle_at, "open_by_handle_at"),
    // The machine's own things.
    (libc::SYS_swapon, "swapon"),
    (libc::SYS_swapoff, "swapoff"),
    (libc::SYS_acct, "acct"),
    (libc::SYS_quotactl, "quotactl"),
    (libc::SYS_settimeofday, "settimeofday"),
    (libc::SYS_clock_settime, "clock_settime"),
    (libc::SYS_pivot_root, "pivot_root"),
    (libc::SYS_syslog, "syslog"),
    (libc::SYS_vhangup, "vhangup"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_iopl, "iopl"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_ioperm, "ioperm"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_modify_ldt, "modify_ldt"),
];

/// Has these calls fail with EPERM in this process, whose only thread this is, and in every program and process that it starts. One that was
/// `inherited` from the program before this one is not added to: lists add up. Returns whether they fail now.
///
/// # Errors
/// The kernel knows such lists, and refuses this one.
pub fn refuse_dangerous(inherited: bool) -> Result<bool, ConfinementError> {
    if !is_known_architecture() {
        return Ok(false);
    }
    if inherited && sys::is_refused_already() {
        return Ok(true);
    }
    let calls = DANGEROUS.iter().map(|&(call, _)| (call, Vec::new()));
    let program = compile(calls, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))?;
    seccompiler::apply_filter(&program).map_err(|e| ConfinementError(format!("seccomp: {e}")))?;
    Ok(true)
}
