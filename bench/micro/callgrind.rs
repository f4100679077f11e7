//! This program under callgrind, which counts what some of its functions and all that they call execute.

use std::env;
use std::fs;
use std::process::{self, Command};

use anyhow::{Context, Result, ensure};

/// x86-64's C library chooses its memcpy by what the processor can do. Without these it is the same everywhere.
const PLAIN: &str = "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-AVX2_Usable,-AVX,-ERMS,-FSRM,-AVX_Fast_Unaligned_Load";

/// Instructions that `functions` execute in a run with `arguments`, on the thread that calls them.
///
/// # Errors
/// No valgrind, a run that failed, or that never came to `functions`.
pub fn count(arguments: &[&str], functions: &[&str]) -> Result<u64> {
    let out = env::temp_dir().join(format!("vonic-bench-micro.{}", process::id()));
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--tool=callgrind", "--dump-line=no"]);
    command.arg(format!("--callgrind-out-file={}", out.display()));
    command.args(functions.iter().map(|name| format!("--toggle-collect=*{name}*")));
    command.arg(env::current_exe()?).args(arguments).env("GLIBC_TUNABLES", PLAIN);
    let result = command.output().context("valgrind: is it installed?")?;
    let report = fs::read_to_string(&out);
    let _ = fs::remove_file(&out);
    ensure!(result.status.success(), "{command:?}: {}", String::from_utf8_lossy(&result.stderr));
    let report = report.context("callgrind's report")?;
    let total = report.lines().find_map(|line| line.strip_prefix("totals:")).context("callgrind's total")?;
    let total = total.trim().parse().with_context(|| format!("callgrind's total: {total}"))?;
    ensure!(total > 0, "{functions:?} were never entered");
    Ok(total)
}
