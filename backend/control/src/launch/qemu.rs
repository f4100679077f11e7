//! QEMU, 10 or later: options in groups, written as a command line or as a file for `-readconfig`.
use super::{Accelerator, Launch, LaunchError, Machine, Nic, Role};

/// One option: `-OPTION HEAD,id=ID,KEY=VALUE,…`, in a file `[SECTION "ID"]` and a line for each key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name on the command line.
    pub option: &'static str,
    /// Its name in a file.
    pub section: &'static str,
    /// The first value, whose key a command line leaves out.
    pub head: (&'static str, String),
    /// What others call it by.
    pub id: Option<&'static str>,
    /// The other keys with their values.
    pub properties: Vec<(String, String)>,
}

/// Everything that QEMU needs for the NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The processor's model, which cannot stand in a file.
    pub cpu: &'static str,
    /// The rest: machine, memory, processors; the memory's backend, the socket, the network, the device.
    pub groups: Vec<Group>,
}

/// `qemu-system-x86_64 …`, to which disks are added.
pub fn command(nic: &Nic, machine: &Machine) -> Launch {
    let mut words = vec!["qemu-system-x86_64".to_string()];
    words.extend(Options::new(nic, machine).words());
    Launch::Command(words)
}

/// The same as a file for `qemu-system-x86_64 -cpu max -readconfig FILE`.
///
/// # Errors
/// Such a file knows no escapes.
pub fn file(nic: &Nic, machine: &Machine) -> Result<Launch, LaunchError> {
    if nic.socket.contains(|c: char| c == '"' || c.is_control()) {
        let why = "has a character that a file for -readconfig cannot";
        return Err(LaunchError(format!("{:?} {why}: use the command line, or another runtime_dir", nic.socket)));
    }
    let sections = Options::new(nic, machine).groups;
    Ok(Launch::Document(sections.iter().map(Group::text).collect::<Vec<_>>().join("\n")))
}

impl Options {
    /// What QEMU needs for a NIC.
    pub fn new(nic: &Nic, machine: &Machine) -> Options {
        let (accelerators, cpu) = match machine.accelerator {
            Accelerator::Auto => ("kvm:tcg", "max"),
            Accelerator::Kvm => ("kvm", "host"),
            Accelerator::Tcg => ("tcg", "max"),
        };
        let memory = format!("{}M", machine.memory);
        let pairs = nic.queue_pairs;
        let groups = vec![
            Group::new("machine", ("type", "q35")).with("accel", accelerators).with("memory-backend", "memory"),
            Group { section: "memory", ..Group::new("m", ("size", &memory)) },
            Group { section: "smp-opts", ..Group::new("smp", ("cpus", &pairs.to_string())) },
            Group::new("object", ("qom-type", "memory-backend-memfd"))
                .called("memory")
                .with("size", &memory)
                .with("share", "on"),
            socket(nic),
            Group::new("netdev", ("type", "vhost-user"))
                .called("net")
                .with("chardev", "vonic")
                .with("queues", &pairs.to_string()),
            device(nic),
        ];
        Options { cpu, groups }
    }

    /// As arguments.
    pub fn words(&self) -> Vec<String> {
        let cpu = ["-cpu".to_string(), self.cpu.to_string()];
        cpu.into_iter().chain(self.groups.iter().flat_map(Group::words)).collect()
    }

    /// Adds a property to an option that is there once.
    pub fn add(&mut self, option: &str, key: &str, value: &str) {
        for group in self.groups.iter_mut().filter(|group| group.option == option) {
            group.properties.push((key.to_string(), value.to_string()));
        }
    }
}

fn socket(nic: &Nic) -> Group {
    let socket = Group::new("chardev", ("backend", "socket")).called("vonic").with("path", &nic.socket);
    match nic.role {
        Role::Listens => socket.with("server", "on").with("wait", "on"),
        Role::Connects { reconnect_ms: Some(wait) } => socket.with("reconnect-ms", &wait.to_string()),
        Role::Connects { reconnect_ms: None } => socket,
    }
}

fn device(nic: &Nic) -> Group {
    let mut device = Group::new("device", ("driver", "virtio-net-pci")).with("netdev", "net").with("mac", &nic.mac);
    if nic.queue_pairs > 1 {
        // A vector for each queue, one for the configuration, one for the control queue (virtio 1.3 §4.1.4.3).
        device = device.with("mq", "on").with("vectors", &(2 * nic.queue_pairs + 2).to_string());
    }
    match nic.told_mtu() {
        Some(mtu) => device.with("host_mtu", &mtu.to_string()),
        None => device,
    }
}

impl Group {
    fn new(option: &'static str, (key, value): (&'static str, &str)) -> Group {
        Group { option, section: option, head: (key, value.to_string()), id: None, properties: Vec::new() }
    }

    fn called(self, id: &'static str) -> Group {
        Group { id: Some(id), ..self }
    }

    fn with(mut self, key: &str, value: &str) -> Group {
        self.properties.push((key.to_string(), value.to_string()));
        self
    }

    /// A comma in a value is written twice.
    fn words(&self) -> [String; 2] {
        let mut value = doubled(&self.head.1);
        if let Some(id) = self.id {
            value.push_str(&format!(",id={id}"));
        }
        for (key, property) in &self.properties {
            value.push_str(&format!(",{key}={}", doubled(property)));
        }
        [format!("-{}", self.option), value]
    }

    fn text(&self) -> String {
        let mut text = match self.id {
            Some(id) => format!("[{} \"{id}\"]\n", self.section),
            None => format!("[{}]\n", self.section),
        };
        let (key, value) = &self.head;
        text.push_str(&format!("  {key} = \"{value}\"\n"));
        for (key, value) in &self.properties {
            text.push_str(&format!("  {key} = \"{value}\"\n"));
        }
        text
    }
}

fn doubled(value: &str) -> String {
    value.replace(',', ",,")
}
