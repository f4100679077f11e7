//! The service under test, with a configuration of the test's own.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::crash;
use crate::directory::TempDir;
use crate::lab;
use crate::netns::Netns;
use crate::process::Process;
use crate::successor::{self, Successor};
use crate::sys;
use crate::usage;
use crate::wait::wait_for;

/// A service with network `default` (192.0.2.0/24, gateway and host_loopback4 192.0.2.1, uplink sockets) and any number of VMs.
#[derive(Debug, Clone)]
pub struct TestConfig {
    /// Lines for the top of vonic.toml.
    pub service: String,
    /// Lines for `[network.default]` in place of the above; empty if `service` has that section.
    pub network: String,
    /// VM files: name and content.
    pub vms: BTreeMap<String, String>,
    /// More arguments, for instance `--standalone`.
    pub arguments: Vec<String>,
    /// The program is the one that dies on demand: see [`Killer`](crate::crash::Killer).
    pub crash_points: bool,
}

impl Default for TestConfig {
    fn default() -> TestConfig {
        let network = "subnet4 = \"192.0.2.0/24\"\ngateway4 = \"192.0.2.1\"\nuplink = \"sockets\"\nhost_loopback4 = \"192.0.2.1\"\n";
        TestConfig {
            service: String::new(),
            network: network.to_string(),
            vms: BTreeMap::new(),
            arguments: Vec::new(),
            crash_points: false,
        }
    }
}

impl TestConfig {
    /// The default with IPv6 beside IPv4: network `default` has 2001:db8::/64 too, with gateway and host_loopback6 2001:db8::1.
    #[must_use]
    pub fn both_families() -> TestConfig {
        let mut config = TestConfig::default();
        config
            .network
            .push_str("subnet6 = \"2001:db8::/64\"\ngateway6 = \"2001:db8::1\"\nhost_loopback6 = \"2001:db8::1\"\n");
        config
    }

    /// A configuration folder as an operator has it, but for `runtime_dir`, which the test sets.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn from_dir(folder: &Path) -> Result<TestConfig> {
        let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
        let service: Vec<String> = read(&folder.join("vonic.toml"))?
            .lines()
            .filter(|line| !line.starts_with("runtime_dir"))
            .map(ToString::to_string)
            .collect();
        let mut vms = BTreeMap::new();
        for entry in std::fs::read_dir(folder.join("vms.d"))? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).context("a VM's name")?;
            vms.insert(name.to_string(), read(&path)?);
        }
        Ok(TestConfig {
            service: service.join("\n"),
            network: String::new(),
            vms,
            arguments: Vec::new(),
            crash_points: false,
        })
    }

    /// Adds a VM with MAC 52:54:00:00:00:NN and address 192.0.2.NN; on a network with subnet6 also 2001:db8::NN, in which NN has the
    /// same digits as in IPv4's. `more` is appended to its file.
    #[must_use]
    pub fn vm(mut self, name: &str, number: u8, more: &str) -> TestConfig {
        let mut text = format!("mac = \"52:54:00:00:00:{number:02x}\"\naddress4 = \"192.0.2.{number}\"\n");
        if self.network.contains("subnet6") {
            text.push_str(&format!("address6 = \"2001:db8::{number}\"\n"));
        }
        text.push_str(&format!("{more}\n"));
        self.vms.insert(name.to_string(), text);
        self
    }

    /// The line that says how many workers there are, where the test does not: `VONIC_TEST_WORKERS` has every test run with so many.
    fn workers(&self) -> String {
        let said = self.service.lines().any(|line| line.starts_with("workers"));
        let workers = std::env::var("VONIC_TEST_WORKERS").ok().filter(|_| !said);
        workers.map(|workers| format!("workers = {workers}\n")).unwrap_or_default()
    }

    /// Writes the files below `etc` in `directory`; sockets will be in `run`.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, directory: &TempDir) -> Result<()> {
        let runtime = directory.path().join("run");
        let mut service = format!("runtime_dir = \"{}\"\n{}{}\n", runtime.display(), self.workers(), self.service);
        if !self.network.is_empty() {
            service.push_str(&format!("[network.default]\n{}", self.network));
        }
        directory.write("etc/vonic.toml", service)?;
        std::fs::create_dir_all(directory.path().join("etc/vms.d"))?;
        std::fs::create_dir_all(&runtime)?;
        for (name, text) in &self.vms {
            directory.write(&format!("etc/vms.d/{name}.toml"), text)?;
        }
        Ok(())
    }
}

/// A running vonicd. Killed and reaped on drop; its log is shown if the test fails.
#[derive(Debug)]
pub struct Vonicd {
    process: Process,
    /// The one that serves after an upgrade.
    successor: Option<Successor>,
    directory: PathBuf,
    /// Its engine does what it may not.
    expects_refusals: bool,
}

/// What stands in the log when an engine has asked for a system call that is not on its list.
pub const REFUSED: &str = "is not on its list";

impl Drop for Vonicd {
    /// Every test is one of the list of system calls as well.
    fn drop(&mut self) {
        let refused = || self.process.log().lines().find(|line| line.contains(REFUSED)).map(ToString::to_string);
        if !std::thread::panicking() && !self.expects_refusals {
            assert_eq!(refused(), None, "the engine lacks a system call");
        }
    }
}

impl Vonicd {
    /// Starts it in the current namespace and waits for its API; files lie in `directory`: `etc/`, `run/`, `vonicd.log`.
    ///
    /// # Errors
    /// If it ends or does not answer within ten seconds; its log is in the error.
    pub fn start(directory: &TempDir, config: &TestConfig) -> Result<Vonicd> {
        Vonicd::start_with(directory, config, None, &[])
    }

    /// As [`Vonicd::start`], in `netns` if given, and led by `wrapper` (for instance `strace -f -o FILE`).
    ///
    /// # Errors
    /// As [`Vonicd::start`].
    pub fn start_with(
        directory: &TempDir,
        config: &TestConfig,
        netns: Option<&Netns>,
        wrapper: &[&str],
    ) -> Result<Vonicd> {
        config.write(directory)?;
        let program = Vonicd::program(config.crash_points)?;
        Vonicd::start_program(directory, config, (netns, &[]), wrapper, &program)
    }

    /// As [`Vonicd::start`], as a service manager does it: with an environment, and descriptors with their names.
    ///
    /// # Errors
    /// As [`Vonicd::start`].
    pub fn start_passing(
        directory: &TempDir,
        config: &TestConfig,
        environment: &[(&str, String)],
        passed: &[(String, RawFd)],
    ) -> Result<Vonicd> {
        config.write(directory)?;
        let program = Vonicd::program(config.crash_points)?;
        let names: Vec<&str> = passed.iter().map(|(name, _)| name.as_str()).collect();
        let more = [("LISTEN_FDS", passed.len().to_string()), ("LISTEN_FDNAMES", names.join(":"))];
        let variables = environment.iter().chain(&more).map(|(name, value)| format!("{name}={value}"));
        let mut wrapper: Vec<String> = vec!["env".into()];
        wrapper.extend(variables);
        wrapper.extend(["sh", "-c", "export LISTEN_PID=$$; exec \"$0\" \"$@\""].map(String::from));
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        let copies: Vec<OwnedFd> =
            passed.iter().map(|(_, fd)| sys::copy_above(*fd, 200)).collect::<std::io::Result<_>>()?;
        let numbers: Vec<RawFd> = copies.iter().map(AsRawFd::as_raw_fd).collect();
        Vonicd::start_program(directory, config, (None, &numbers), &wrapper, &program)
    }

    /// Starts it as an ordinary user: all its files are the user's, it has no capability and can get none, its programs lie where the
    /// user can read them, and it may open 1024 files unless it asks for more.
    ///
    /// # Errors
    /// As [`Vonicd::start`].
    pub fn start_as(user: u32, directory: &TempDir, config: &TestConfig) -> Result<Vonicd> {
        config.write(directory)?;
        let program = Vonicd::copy(directory)?;
        for part in ["etc", "etc/vms.d", "run"] {
            chown(directory.path().join(part), Some(user), Some(user))?;
        }
        let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
        let wrapper = ["prlimit", "--nofile=1024:4096", "setpriv", &uid, &gid, "--clear-groups", "--bounding-set=-all"];
        // A change of credentials clears what the test has asked for (prctl(2)).
        let more = ["--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs", "--pdeathsig=SIGKILL"];
        Vonicd::start_program(directory, config, (None, &[]), &[&wrapper[..], &more].concat(), &program)
    }

    /// Puts the program where every user can run it.
    ///
    /// # Errors
    /// The file system's.
    pub fn copy(directory: &TempDir) -> Result<PathBuf> {
        let program = directory.path().join("vonicd");
        std::fs::copy(lab::built("VONIC_BIN_DIR", "release", "vonicd")?, &program).context("copying vonicd")?;
        Ok(program)
    }

    /// The command `vonic`.
    ///
    /// # Errors
    /// If it has not been built.
    pub fn client() -> Result<PathBuf> {
        lab::built("VONIC_BIN_DIR", "release", "vonic")
    }

    /// The variant that writes the formats after this one's, as a newer vonicd would.
    ///
    /// # Errors
    /// If it has not been built.
    pub fn of_next_format() -> Result<PathBuf> {
        lab::built("VONIC_NEXT_BIN_DIR", "next/debug", "vonicd")
    }

    /// Where it was built, with its crash points or as it is released.
    ///
    /// # Errors
    /// If it was not.
    pub fn program(crash_points: bool) -> Result<PathBuf> {
        if crash_points { crash::program() } else { lab::built("VONIC_BIN_DIR", "release", "vonicd") }
    }

    fn start_program(
        directory: &TempDir,
        config: &TestConfig,
        (netns, passed): (Option<&Netns>, &[RawFd]),
        wrapper: &[&str],
        program: &Path,
    ) -> Result<Vonicd> {
        let mut words: Vec<String> = wrapper.iter().map(ToString::to_string).collect();
        words.push(program.display().to_string());
        words.extend(["--config-dir".to_string(), directory.path().join("etc").display().to_string()]);
        words.extend(config.arguments.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("RUST_BACKTRACE", "1");
        if config.crash_points {
            command.env("VONIC_CRASH", crash::folder(directory)?);
        }
        sys::pass(&mut command, passed);
        let process = Process::start("vonicd", &mut command, netns, &directory.path().join("vonicd.log"))?;
        let mut vonicd =
            Vonicd { process, successor: None, directory: directory.path().to_path_buf(), expects_refusals: false };
        vonicd.wait_ready()?;
        Ok(vonicd)
    }

    fn wait_ready(&mut self) -> Result<()> {
        wait_for("vonicd's API", Duration::from_secs(10), || {
            if let Some(status) = self.process.ended() {
                bail!("vonicd ended with {status}:\n{}", self.process.log());
            }
            Ok(self.vonic(&["vm", "list", "--json"]).ok())
        })
        .map(drop)
        .with_context(|| self.process.log())
    }

    /// The vhost-user socket of a VM.
    pub fn socket(&self, vm: &str) -> PathBuf {
        self.directory.join("run").join(format!("{vm}.sock"))
    }

    /// Runs `vonic ARGUMENTS` against this service, whatever comes of it.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn vonic_output(&self, arguments: &[&str]) -> Result<Output> {
        let program = lab::built("VONIC_BIN_DIR", "release", "vonic")?;
        let socket = self.directory.join("run/api.sock");
        Command::new(program).arg("--socket").arg(&socket).args(arguments).output().context("running vonic")
    }

    /// As [`Vonicd::vonic_output`], as another user.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn vonic_as(&self, user: u32, arguments: &[&str]) -> Result<Output> {
        let program = self.directory.join("vonic");
        if !program.exists() {
            std::fs::copy(lab::built("VONIC_BIN_DIR", "release", "vonic")?, &program).context("copying vonic")?;
        }
        let mut command = Command::new(program);
        command.uid(user).gid(user).arg("--socket").arg(self.directory.join("run/api.sock")).args(arguments);
        command.output().context("running vonic")
    }

    /// Runs `vonic ARGUMENTS` against this service and returns what it printed.
    ///
    /// # Errors
    /// If it fails; with its message.
    pub fn vonic_text(&self, arguments: &[&str]) -> Result<String> {
        let output = self.vonic_output(arguments)?;
        if !output.status.success() {
            bail!("vonic {arguments:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs `vonicd --check` over the configuration folder `folder`.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn check(folder: &Path) -> Result<Output> {
        let program = lab::built("VONIC_BIN_DIR", "release", "vonicd")?;
        Command::new(program).arg("--check").arg("--config-dir").arg(folder).output().context("running vonicd --check")
    }

    /// As [`Vonicd::vonic_text`], for arguments with `--json`.
    ///
    /// # Errors
    /// Also if the output is not JSON.
    pub fn vonic(&self, arguments: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.vonic_text(arguments)?)?)
    }

    /// `vonic stats --json`.
    ///
    /// # Errors
    /// As [`Vonicd::vonic`].
    pub fn stats(&self) -> Result<Value> {
        self.vonic(&["stats", "--json"])
    }

    /// `vonic vm show NAME --json`.
    ///
    /// # Errors
    /// As [`Vonicd::vonic`].
    pub fn vm(&self, name: &str) -> Result<Value> {
        self.vonic(&["vm", "show", name, "--json"])
    }

    /// How often `reason` dropped a frame of a VM, both directions together.
    ///
    /// # Errors
    /// As [`Vonicd::vonic`].
    pub fn drops(&self, vm: &str, reason: &str) -> Result<u64> {
        let detail = self.vm(vm)?;
        let by_direction = detail["drops_by_reason"][reason].as_object();
        Ok(by_direction.map_or(0, |counts| counts.values().filter_map(Value::as_u64).sum()))
    }

    /// Bytes that vonic itself copied on a path: `guest_to_host`, `host_to_guest` or `guest_to_guest`.
    ///
    /// # Errors
    /// As [`Vonicd::vonic`], and if there is no such counter.
    pub fn copied(&self, path: &str) -> Result<u64> {
        let stats = self.stats()?;
        stats["copied_bytes"][path].as_u64().with_context(|| format!("copied_bytes.{path} in {stats}"))
    }

    /// `vonic upgrade PROGRAM`: another vonicd serves from here on.
    ///
    /// # Errors
    /// If it does not take over, or the one before does not end in good order.
    pub fn upgrade(&mut self, program: &Path) -> Result<()> {
        successor::adopt_orphans()?;
        let report = self.vonic(&["upgrade", &program.display().to_string(), "--json"])?;
        let pid = report["process"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("its process")?;
        let code = match self.successor.replace(Successor::new(pid)) {
            Some(mut older) => older.wait(Duration::from_secs(5))?,
            None => self.process.wait(Duration::from_secs(5))?.code().unwrap_or(-1),
        };
        if code != 0 {
            bail!("the older vonicd ended with {code}:\n{}", self.log());
        }
        Ok(())
    }

    /// Its engine is going to do what it may not.
    pub fn expect_refusals(&mut self) {
        self.expects_refusals = true;
    }

    /// The master's process id.
    pub fn master(&self) -> u32 {
        self.successor.as_ref().map_or_else(|| self.process.pid(), Successor::pid)
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// If it has not ended in good order after ten seconds.
    pub fn stop(mut self) -> Result<()> {
        if let Some(mut successor) = self.successor.take() {
            successor.signal(libc::SIGTERM)?;
            let code = successor.wait(Duration::from_secs(10))?;
            if code != 0 {
                bail!("vonicd ended with {code}:\n{}", self.process.log());
            }
            return Ok(());
        }
        self.process.signal(libc::SIGTERM)?;
        let status = self.process.wait(Duration::from_secs(10))?;
        if !status.success() {
            bail!("vonicd ended with {status}:\n{}", self.process.log());
        }
        Ok(())
    }

    /// Kills it with SIGKILL and reaps it.
    pub fn kill(&mut self) {
        self.successor = None;
        self.process.kill();
    }

    /// The master.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The engine's process id.
    ///
    /// # Errors
    /// If its pid file is not there.
    pub fn engine(&self) -> Result<u32> {
        let path = self.directory.join("run/engine.pid");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.trim().parse()?)
    }

    /// Has master and engine stand still, so that what is measured beside them has the machine for itself.
    ///
    /// # Errors
    /// If one is gone.
    pub fn freeze(&self) -> Result<()> {
        // The master first: it would take an engine that stands still for one that hangs.
        [self.master(), self.engine()?].iter().try_for_each(|pid| Ok(sys::kill(*pid, libc::SIGSTOP)?))
    }

    /// They go on.
    ///
    /// # Errors
    /// As [`Vonicd::freeze`].
    pub fn thaw(&self) -> Result<()> {
        [self.engine()?, self.master()].iter().try_for_each(|pid| Ok(sys::kill(*pid, libc::SIGCONT)?))
    }

    /// Does something while the engine sleeps and cannot wake: its workers find all of it in one round.
    ///
    /// # Errors
    /// If it does not come to rest in ten seconds, or is gone; or those of `happens`.
    pub fn in_one_round<T>(&self, happens: impl FnOnce() -> Result<T>) -> Result<T> {
        let engine = self.engine()?;
        wait_for("an engine that sleeps", Duration::from_secs(10), || Ok(usage::sleeps(engine)?.then_some(())))?;
        self.freeze()?;
        let happened = happens();
        self.thaw()?;
        happened
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The configuration folder, for tests that change it and reload.
    pub fn config_dir(&self) -> PathBuf {
        self.directory.join("etc")
    }

    /// The test's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}
