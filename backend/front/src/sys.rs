//! The system calls that the standard library does not offer. All of this crate's unsafe code is here.
#![allow(unsafe_code)]

mod helper;
mod process;
mod signal;
mod socket;
mod table;

pub(crate) use helper::{close_all_but, do_not_wait, forget_children, fork, wait_for};
pub(crate) use process::close_on_exec;
pub use process::take_turns_of;
pub(crate) use process::{
    Cloned, Ended, adopt_orphans, clone_sharing_files, descriptor_limit, die_with_parent, ended, exit_now, is_stopped,
    kill, kill_self, map_large_blocks, monotonic, no_core_dump, no_new_privileges, pidfd_open, raise_descriptor_limit,
    reap, reap_all,
};
pub(crate) use signal::{Signals, leave_to_master};
pub(crate) use socket::{
    SCM_MAX_FD, adopt, bind, connect, duplicate, fd_use, hung_up, is_served, is_unix_stream, listen, receive,
    receive_many, seqpacket_pair,
};

pub(crate) use table::{
    Swept, accepted_at, close_later, memory_file, memory_file_of, move_off, open_descriptors, place, reserve, sweep,
    take_stdin,
};

use std::io;

/// The usual convention: a negative result means errno.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
