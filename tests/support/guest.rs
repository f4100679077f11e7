//! A guest: a real Linux kernel and its virtio-net driver, under user-mode Linux or QEMU, with a shell that the test talks to.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use vonic_control::launch::{self, Accelerator, Launch, Machine, Nic, Role};

use crate::console::{Console, Output};
use crate::directory::TempDir;
use crate::initramfs::{self, Entry};
use crate::lab::{self, Lab};
use crate::process::{self, Process};
use crate::programs;
use crate::wait::wait_for;

/// How long a guest may take from its start to its first prompt; QEMU without KVM needs six seconds of an idle machine.
const BOOT: Duration = Duration::from_secs(120);

/// What runs the guest's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vmm {
    /// User-mode Linux: near-native speed without KVM, up in a second.
    Uml,
    /// QEMU with KVM where that works, else by translation (TCG).
    Qemu,
}

impl Vmm {
    /// Both.
    pub const ALL: [Vmm; 2] = [Vmm::Uml, Vmm::Qemu];
}

/// The guest's IPv4 configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ip4 {
    /// The interface stays down.
    None,
    /// Asked for by DHCP; what came lies in the guest's /run/lease.
    Dhcp,
    /// Address with prefix length, and the default gateway.
    Static(String, String),
}

/// What to boot.
#[derive(Debug, Clone)]
pub struct GuestConfig {
    /// For file names and messages; unique within a directory.
    pub name: String,
    /// Which VMM.
    pub vmm: Vmm,
    /// The vhost-user socket, a path in the test's directory.
    pub socket: PathBuf,
    /// The NIC's address. QEMU presents this one; user-mode Linux takes what the backend offers.
    pub mac: String,
    /// IPv4.
    pub ip4: Ip4,
    /// Whether IPv6 is on.
    pub ip6: bool,
    /// Set in the guest if given; otherwise what the backend offers, or 1500.
    pub mtu: Option<u16>,
    /// Guest memory in MiB.
    pub memory: u32,
    /// QEMU: properties of the virtio-net device, for instance "csum=off"; and reconnect after a lost backend.
    pub device: Option<String>,
    /// QEMU connects again after it lost the backend.
    pub reconnect: bool,
    /// What only QEMU can do.
    pub qemu: QemuConfig,
    /// Pairs of queues: QEMU's device has so many, and as many processors. User-mode Linux takes what the backend offers, on one.
    pub queue_pairs: u16,
    /// Programs besides vonic-peer, put into the guest's /tmp, where its shell finds them.
    pub programs: Vec<PathBuf>,
    /// The lab's programs that the guest runs, by name. User-mode Linux has them all, QEMU's initramfs only these.
    pub lab_programs: Vec<String>,
    /// What starts the VMM with its NIC, as a program of the lab with arguments, in place of what `vonic vm command` would print.
    pub launcher: Option<Vec<String>>,
}

/// What only QEMU can do. Its monitor listens at NAME.qmp in the test's directory: see [`Qmp`](crate::Qmp).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QemuConfig {
    /// It listens on the vhost-user socket, and the backend connects.
    pub listens: bool,
    /// There is room for more memory, in four slots.
    pub hotplug: bool,
    /// A reset restarts it; without this it ends.
    pub reboots: bool,
    /// It waits for another QEMU's guest to come, by the monitor's `migrate-incoming`.
    pub incoming: bool,
    /// iPXE boots first and runs this script, in which `@LINUX@` stands for the kernel's parameters. Kernel and initramfs lie in the
    /// test's directory as vmlinuz and initrd-NAME.
    pub ipxe: Option<String>,
}

impl GuestConfig {
    /// A user-mode Linux guest with a static address in 192.0.2.0/24 behind the gateway 192.0.2.1; `number` makes address and MAC.
    pub fn new(name: &str, number: u8, socket: &Path) -> GuestConfig {
        GuestConfig {
            name: name.to_string(),
            vmm: Vmm::Uml,
            socket: socket.to_path_buf(),
            mac: format!("52:54:00:00:00:{number:02x}"),
            ip4: Ip4::Static(format!("192.0.2.{number}/24"), "192.0.2.1".to_string()),
            ip6: false,
            mtu: None,
            memory: 256,
            device: None,
            reconnect: false,
            qemu: QemuConfig::default(),
            queue_pairs: 1,
            programs: Vec::new(),
            lab_programs: Vec::new(),
            launcher: None,
        }
    }

    /// The same under another VMM.
    pub fn on(self, vmm: Vmm) -> GuestConfig {
        GuestConfig { vmm, ..self }
    }

    fn parameters(&self) -> String {
        let mut words = String::new();
        match &self.ip4 {
            Ip4::None => {}
            Ip4::Dhcp => words.push_str(" vonic.ip4=dhcp"),
            Ip4::Static(address, gateway) => words.push_str(&format!(" vonic.ip4={address} vonic.gw4={gateway}")),
        }
        if self.ip6 {
            words.push_str(" vonic.ip6=1");
        }
        if let Some(mtu) = self.mtu {
            words.push_str(&format!(" vonic.mtu={mtu}"));
        }
        words
    }

    /// Every program of the guest with its file name.
    fn programs(&self) -> Result<Vec<(String, PathBuf)>> {
        let named = |path: PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).context("a program's name")?.to_string();
            Ok((name, path))
        };
        std::iter::once(lab::peer_program())
            .chain(self.programs.iter().cloned().map(Ok))
            .map(|path| named(path?))
            .collect()
    }

    /// The NIC as the lab sees it. The guest's scripts set its MTU.
    fn nic(&self, directory: &TempDir) -> Result<Nic> {
        let role = match (self.reconnect, self.qemu.listens) {
            (_, true) => Role::Listens,
            (true, false) => Role::Connects { reconnect_ms: Some(100) },
            (false, false) => Role::Connects { reconnect_ms: None },
        };
        Ok(Nic {
            name: self.name.clone(),
            socket: directory.lab_path(&self.socket)?.display().to_string(),
            role,
            mac: self.mac.clone(),
            mtu: 1500,
            queue_pairs: self.queue_pairs,
        })
    }

    fn machine(&self, accelerator: Accelerator) -> Machine {
        Machine { memory: self.memory.into(), accelerator }
    }

    /// What starts the VMM with its NIC: the launcher, or else what `generated` makes.
    fn launch(&self, generated: impl FnOnce() -> Result<Vec<String>>) -> Result<Command> {
        let words = self.launcher.clone().map_or_else(generated, Ok)?;
        let (program, arguments) = words.split_first().context("a launcher without a program")?;
        let mut command = Command::new(program);
        command.args(arguments);
        Ok(command)
    }

    fn uml(&self, directory: &TempDir) -> Result<Command> {
        let nic = Nic { queue_pairs: 1, ..self.nic(directory)? };
        let mut command = self.launch(|| match launch::uml::launch(&nic, &self.machine(Accelerator::Auto))? {
            Launch::Command(words) => Ok(words),
            Launch::Document(text) => bail!("no command: {text}"),
        })?;
        command.arg(format!("umid=uml-{}", self.name)).args(["uml_dir=/tmp/", "root=none", "rootfstype=hostfs", "ro"]);
        command.args(["init=/tmp/init.sh", "con=null", "con0=fd:0,fd:1", "quiet"]);
        command.args(self.parameters().split_ascii_whitespace());
        Ok(command)
    }

    /// QEMU's options for the NIC, and what a test wants otherwise.
    fn options(&self, lab: &Lab, directory: &TempDir) -> Result<Vec<String>> {
        let accelerator = if lab.kvm() { Accelerator::Kvm } else { Accelerator::Tcg };
        let mut options = launch::qemu::Options::new(&self.nic(directory)?, &self.machine(accelerator));
        if self.qemu.hotplug {
            options.add("m", "slots", "4");
            options.add("m", "maxmem", "2G");
        }
        // iPXE in the card's ROM would take seconds.
        options.add("device", "romfile", "");
        for property in self.device.iter().flat_map(|device| device.split(',')) {
            let (key, value) = property.split_once('=').context("a property without a value")?;
            options.add("device", key, value);
        }
        let mut words = vec!["qemu-system-x86_64".to_string()];
        words.extend(options.words());
        Ok(words)
    }

    fn qemu(&self, lab: &Lab, directory: &TempDir) -> Result<Command> {
        let initrd = self.initrd(lab, directory)?;
        let mut command = self.launch(|| self.options(lab, directory))?;
        command.arg("-qmp").arg(format!("unix:/tmp/{}.qmp,server=on,wait=off", self.name));
        command.args(["-nographic", "-nodefaults", "-serial", "stdio"]);
        if !self.qemu.reboots {
            command.arg("-no-reboot");
        }
        if self.qemu.incoming {
            command.args(["-incoming", "defer"]);
        }
        let linux = self.linux();
        if let Some(script) = &self.qemu.ipxe {
            std::fs::copy(lab.boot("ipxe.lkrn"), directory.path().join("ipxe.lkrn"))
                .context("no iPXE: run `make testbed`")?;
            directory.write("script.ipxe", script.replace("@LINUX@", &linux))?;
            command.args(["-kernel", "/tmp/ipxe.lkrn", "-initrd", "/tmp/script.ipxe"]);
        } else {
            command
                .args(["-kernel", "/tmp/vmlinuz", "-initrd"])
                .arg(format!("/tmp/{initrd}"))
                .args(["-append", &linux]);
        }
        Ok(command)
    }

    /// The parameters of a kernel that boots from the initramfs.
    pub fn linux(&self) -> String {
        format!("console=ttyS0 quiet panic=-1 rdinit=/tmp/init.sh{}", self.parameters())
    }

    /// Writes kernel (`vmlinuz`) and initramfs for a VMM that boots from them; the initramfs' name.
    ///
    /// # Errors
    /// If something is missing.
    pub fn initrd(&self, lab: &Lab, directory: &TempDir) -> Result<String> {
        let initrd = format!("initrd-{}", self.name);
        let base = std::fs::read(lab.boot("initramfs.cpio")).context("the initramfs")?;
        let mut additions = vec![Entry::new("tmp/init.sh", INIT), Entry::new("tmp/dhcp.sh", DHCP)];
        for (name, path) in self.programs()? {
            additions.push(Entry::new(format!("tmp/{name}"), std::fs::read(path)?));
        }
        let mut lab_programs = self.lab_programs.clone();
        if self.queue_pairs > 1 {
            lab_programs.push("ethtool".to_string());
        }
        if !lab_programs.is_empty() {
            additions.extend(programs::lab_programs(lab, &lab_programs)?);
        }
        directory.write(&initrd, initramfs::extend(base, &additions))?;
        // Another guest's VMM may be reading it.
        let kernel = directory.path().join("vmlinuz");
        if !kernel.exists() {
            std::fs::copy(lab.boot("vmlinuz"), kernel).context("the kernel")?;
        }
        Ok(initrd)
    }
}

const INIT: &str = include_str!("guest/init.sh");
const DHCP: &str = include_str!("guest/dhcp.sh");
/// A running guest. Killed and reaped on drop; its console is shown if the test fails.
pub struct Guest {
    name: String,
    process: Process,
    console: Console,
    requests: u32,
}

impl Guest {
    /// Starts it and waits for its shell.
    ///
    /// # Errors
    /// If it does not boot, has no NIC, or its address cannot be set; the console's text is in the error.
    pub fn boot(lab: &Lab, directory: &TempDir, config: &GuestConfig) -> Result<Guest> {
        let guest = Guest::start(lab, directory, config)?;
        guest.wait_ready()?;
        Ok(guest)
    }

    /// Starts it only: several guests boot at once if all are started before the first is waited for.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(lab: &Lab, directory: &TempDir, config: &GuestConfig) -> Result<Guest> {
        let mut command = match config.vmm {
            Vmm::Uml => {
                directory.write("init.sh", INIT)?;
                directory.write("dhcp.sh", DHCP)?;
                for (name, path) in config.programs()? {
                    let copy = directory.path().join(&name);
                    if !copy.exists() {
                        std::fs::copy(path, &copy).with_context(|| format!("copying {name}"))?;
                    }
                }
                config.uml(directory)?
            }
            Vmm::Qemu => config.qemu(lab, directory)?,
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let log = directory.path().join(format!("{}.vmm.log", config.name));
        let mut process = Process::start_console(&config.name, &mut command, lab.place(directory)?, &log)?;
        let child = process.child();
        let (input, output) = child.stdin.take().zip(child.stdout.take()).context("the guest's console")?;
        Ok(Guest { name: config.name.clone(), process, console: Console::new(input, output), requests: 0 })
    }

    /// Waits for a started guest's shell.
    ///
    /// # Errors
    /// As [`Guest::boot`].
    pub fn wait_ready(&self) -> Result<()> {
        self.wait_ready_from(0)
    }

    fn wait_ready_from(&self, position: usize) -> Result<()> {
        let prompt = |text: &str| text.contains("@@READY\n").then_some(());
        let ready = self.console.expect(position, BOOT, prompt);
        let text = self.console.text();
        if ready.is_err() || text.contains("@@FAILED") {
            bail!("{} did not boot: {ready:?}\n{text}\n{}", self.name, self.process.log());
        }
        Ok(())
    }

    /// Waits until its shell is there for the `times`th time: after a reset.
    ///
    /// # Errors
    /// If it does not boot so often.
    pub fn wait_boot(&self, times: usize) -> Result<()> {
        let booted = |text: &str| (text.matches("@@READY\n").count() >= times).then_some(());
        let ready = self.console.expect(0, BOOT, booted);
        ready.with_context(|| format!("{} did not boot {times} times:\n{}", self.name, self.console.text()))
    }

    /// Waits until the console shows `text`.
    ///
    /// # Errors
    /// If it does not within `limit`; with what it shows.
    pub fn wait_console(&self, text: &str, limit: Duration) -> Result<()> {
        let shown = self.console.expect(0, limit, |heard| heard.contains(text).then_some(()));
        shown.with_context(|| format!("{text:?} on the console of {}:\n{}", self.name, self.console.text()))
    }

    /// Runs a shell command, killed in the guest after `limit`.
    ///
    /// # Errors
    /// If the guest ends or does not answer. A command that fails or is killed is no error: see [`Output::status`].
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<Output> {
        let mode = limit.as_secs().max(1).to_string();
        self.ask(&mode, command, limit + Duration::from_secs(20))
    }

    /// Runs a shell command that must succeed within `limit` and returns what it printed.
    ///
    /// # Errors
    /// If it does not; with its output.
    pub fn must(&mut self, command: &str, limit: Duration) -> Result<String> {
        let output = self.run(command, limit)?;
        if output.status != 0 {
            bail!("{}: `{command}` ended with status {}:\n{}", self.name, output.status, output.stdout);
        }
        Ok(output.stdout)
    }

    /// Goes on with the shell of a guest that has come here by migration.
    pub fn arrive(&mut self, from: Guest) {
        // Its answers and its jobs have numbers.
        self.requests = from.requests;
    }

    /// Starts a shell command in the background.
    ///
    /// # Errors
    /// If the guest does not answer.
    pub fn spawn(&mut self, command: &str) -> Result<Job> {
        let output = self.ask("background", command, Duration::from_secs(20))?;
        let pid = output.stdout.trim().parse().with_context(|| format!("a process id, not {:?}", output.stdout))?;
        Ok(Job { id: self.requests, pid, command: command.to_string() })
    }

    fn ask(&mut self, mode: &str, command: &str, limit: Duration) -> Result<Output> {
        self.requests += 1;
        let answer = self.console.ask(self.requests, mode, command, limit);
        answer.with_context(|| format!("{}: `{command}`", self.name))
    }

    /// Boots the kernel anew, without any farewell to the device, and waits for its shell; [`QemuConfig::reboots`] has to be set.
    ///
    /// # Errors
    /// As [`Guest::boot`].
    pub fn reboot(&mut self) -> Result<()> {
        let position = self.console.position();
        self.requests += 1;
        drop(self.console.ask(self.requests, "background", "busybox reboot -f", Duration::from_secs(2)));
        self.wait_ready_from(position)
    }

    /// Ends the guest's kernel in good order.
    ///
    /// # Errors
    /// If the VMM still runs ten seconds later.
    pub fn power_off(mut self) -> Result<()> {
        self.requests += 1;
        drop(self.console.ask(self.requests, "background", "poweroff -f", Duration::from_secs(2)));
        self.process.wait(Duration::from_secs(10)).map(drop)
    }

    /// Kills the VMM with SIGKILL, as a crash would, and reaps it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// The VMM.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// All that the console has shown.
    pub fn console(&self) -> String {
        self.console.text()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            process::show(&format!("console of {}", self.name), &self.console.text());
        }
    }
}

/// A command running in a guest's background.
#[derive(Debug)]
pub struct Job {
    id: u32,
    pid: u32,
    command: String,
}

impl Job {
    /// What it printed so far.
    ///
    /// # Errors
    /// If the guest does not answer.
    pub fn output(&self, guest: &mut Guest) -> Result<String> {
        // The shell that runs the job makes the file; it may not have come so far.
        guest.must(&format!("cat /run/{}.out 2>/dev/null || true", self.id), Duration::from_secs(10))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it still runs after `limit`, or the guest does not answer.
    pub fn wait(&self, guest: &mut Guest, limit: Duration) -> Result<Output> {
        let status = wait_for(&format!("the end of `{}`", self.command), limit, || {
            let output = guest.run(&format!("sleep 0.05; cat /run/{}.status", self.id), Duration::from_secs(10))?;
            Ok(output.stdout.trim().parse::<i32>().ok())
        })?;
        Ok(Output { status, stdout: self.output(guest)? })
    }

    /// Waits until it has printed `text`.
    ///
    /// # Errors
    /// If it has not after `limit`, or the guest does not answer.
    pub fn wait_output(&self, guest: &mut Guest, text: &str, limit: Duration) -> Result<()> {
        wait_for(&format!("{text:?} from `{}`", self.command), limit, || {
            Ok(self.output(guest)?.contains(text).then_some(()))
        })
    }

    /// Sends it and what it started a signal, by its name.
    ///
    /// # Errors
    /// If the guest does not answer, or it is gone.
    pub fn signal(&self, guest: &mut Guest, signal: &str) -> Result<()> {
        guest.must(&format!("kill -{signal} -{}", self.pid), Duration::from_secs(10)).map(drop)
    }

    /// Kills it and what it started.
    ///
    /// # Errors
    /// If the guest does not answer.
    pub fn kill(self, guest: &mut Guest) -> Result<()> {
        guest.run(&format!("kill -9 -{}", self.pid), Duration::from_secs(10)).map(drop)
    }
}
