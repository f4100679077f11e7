//! The ready files of `qemu-configs`: does each VMM that can run here start by them, find its NIC, and find it again?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::{Path, PathBuf};
use std::process::Command;

use vonic_tests::*;

/// What they describe.
fn start() -> Bed {
    isolate().unwrap();
    Bed::start_here(&TestConfig::from_dir(&folder().join("example")).unwrap()).unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../qemu-configs")
}

/// Puts a file where the lab finds it. The sockets are the test's, and a KVM that runs no kernel is left alone.
fn place(bed: &Bed, file: &str) -> String {
    let mut text = std::fs::read_to_string(folder().join(file)).unwrap().replace("/run/vonic/", "/tmp/run/");
    if !bed.lab.kvm() {
        text = text.replace("kvm:tcg", "tcg");
    }
    bed.directory.write(file, text).unwrap();
    format!("/tmp/{file}")
}

/// The words that start its VMM, with more options behind them.
fn launcher(bed: &Bed, file: &str, more: &[&str]) -> Vec<String> {
    let path = place(bed, file);
    let qemu = ["qemu-system-x86_64", "-cpu", "max", "-readconfig", &path];
    let words: &[&str] = if file.ends_with(".cfg") { &qemu } else { &["sh", &path] };
    words.iter().chain(more).map(ToString::to_string).collect()
}

fn boot(bed: &Bed, file: &str, vmm: Vmm, name: &str, number: u8, pairs: u16) -> Guest {
    let more: &[&str] = if vmm == Vmm::Qemu { &["-global", "virtio-net-pci.romfile="] } else { &[] };
    let config = GuestConfig::new(name, number, &bed.socket(name)).on(vmm);
    let launcher = Some(launcher(bed, file, more));
    bed.start_configured(&GuestConfig { queue_pairs: pairs, launcher, ..config }).unwrap()
}

/// Starts QEMU by a file, without a guest: it attaches the NIC to the VM's socket.
fn attaches(bed: &Bed, file: &str, vm: &str) {
    let words = launcher(bed, file, &["-S", "-nodefaults", "-display", "none"]);
    let mut command = Command::new(&words[0]);
    let mut qemu = bed.lab.start(file, &bed.directory, command.args(&words[1..])).unwrap();
    let connected = |wanted: bool| {
        let what = format!("{vm} by {file}, connected: {wanted}");
        wait_until(&what, seconds(20), || bed.vonicd.vm(vm).unwrap()["connected"] == wanted).unwrap();
    };
    connected(true);
    assert!(qemu.ended().is_none(), "{}", qemu.log());
    qemu.kill();
    connected(false);
}

fn ready(bed: &Bed, vm: &str) {
    wait_until("the driver", seconds(30), || bed.vonicd.vm(vm).unwrap()["driver_ready"] == true).unwrap();
}

#[test]
fn guests_start_by_the_ready_files() {
    let mut bed = start();
    let mut one = boot(&bed, "qemu.sh", Vmm::Qemu, "web1", 2, 1);
    let mut two = boot(&bed, "qemu-queues.cfg", Vmm::Qemu, "web2", 3, 2);
    one.wait_ready().unwrap();
    two.wait_ready().unwrap();
    assert_eq!(two.must("ls -d /sys/class/net/eth0/queues/rx-* | wc -l", seconds(10)).unwrap().trim(), "2");
    assert_eq!(two.must("cat /sys/class/net/eth0/mtu", seconds(10)).unwrap().trim(), "9000");
    let server = two.spawn("vonic-peer serve 0.0.0.0:7").unwrap();
    server.wait_output(&mut two, "listening", seconds(10)).unwrap();
    let streams = "vonic-peer both 192.0.2.3:7 1000003 5 2";
    one.must(streams, seconds(60)).unwrap();
    // The VMMs connect again by themselves.
    bed.vonicd.kill();
    bed.vonicd = Vonicd::start(&bed.directory, &TestConfig::from_dir(&folder().join("example")).unwrap()).unwrap();
    ready(&bed, "web1");
    ready(&bed, "web2");
    one.must("ping -c 1 -W 20 192.0.2.3", seconds(30)).unwrap();
    one.must(streams, seconds(60)).unwrap();
    drop((one, two));

    let mut uml = boot(&bed, "uml.sh", Vmm::Uml, "web1", 2, 1);
    uml.wait_ready().unwrap();
    uml.must("ping -c 1 -W 10 192.0.2.1", seconds(20)).unwrap();
    drop(uml);
    for (file, vm) in [
        ("qemu-tcg.sh", "web1"),
        ("qemu.cfg", "web1"),
        ("qemu-queues.sh", "web2"),
        ("qemu-listens.sh", "web3"),
        ("qemu-listens.cfg", "web3"),
    ] {
        attaches(&bed, file, vm);
    }
    if bed.lab.kvm() {
        attaches(&bed, "qemu-kvm.sh", "web1");
    }
    bed.vonicd.stop().unwrap();
}

/// libvirt's schema takes the documents. In the long form (VONIC_LONG=1) libvirt itself makes QEMU's command line of one and boots a guest
/// by it, which takes a minute and a half without KVM.
#[test]
fn libvirt_starts_a_guest_by_the_ready_file() {
    let bed = start();
    for file in ["libvirt.xml", "libvirt-tcg.xml", "libvirt-queues.xml", "libvirt-listens.xml"] {
        let path = place(&bed, file);
        let mut validate = Command::new("virt-xml-validate");
        let mut validation = bed.lab.start("validation", &bed.directory, validate.args([&path, "domain"])).unwrap();
        let status = validation.wait(seconds(20)).unwrap();
        assert!(status.success(), "{}", validation.log());
    }
    if std::env::var_os("VONIC_LONG").is_none() && !bed.lab.kvm() {
        return;
    }
    let guest = GuestConfig { ip4: Ip4::Dhcp, ..GuestConfig::new("web1", 2, &bed.socket("web1")) };
    let initrd = guest.initrd(&bed.lab, &bed.directory).unwrap();
    let file = if bed.lab.kvm() { "libvirt.xml" } else { "libvirt-tcg.xml" };
    let linux = guest.linux();
    let boot =
        format!("hvm</type><kernel>/tmp/vmlinuz</kernel><initrd>/tmp/{initrd}</initrd><cmdline>{linux}</cmdline>");
    let domain = std::fs::read_to_string(bed.directory.path().join(file)).unwrap();
    let console = "<serial type='file'><source path='/tmp/console'/></serial>";
    let domain = domain.replace("hvm</type>", &boot).replace("<serial type='pty'/>", console);
    bed.directory.write("domain.xml", domain).unwrap();
    let settings = "user = \"root\"\ngroup = \"root\"\nremember_owner = 0\nstdio_handler = \"file\"\n";
    bed.directory.write("libvirt/etc/qemu.conf", settings).unwrap();
    // The lab's root is read-only; libvirt keeps what it runs in /run.
    let run_domain = "mount -t tmpfs none /run && exec virt-qemu-run --verbose --root /tmp/libvirt /tmp/domain.xml";
    // With processes of its own: QEMU, which it lets go of, ends with it.
    let mut run = Command::new("unshare");
    run.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", run_domain]);
    let mut libvirt = bed.lab.start("libvirt", &bed.directory, &mut run).unwrap();
    leased(&bed, &mut libvirt);
}

/// Waits for the guest of web1, whose console is a file, and for its lease.
fn leased(bed: &Bed, vmm: &mut Process) {
    wait_until("a guest with a lease", seconds(120), || {
        let console = std::fs::read_to_string(bed.directory.path().join("console")).unwrap_or_default();
        assert!(!console.contains("@@FAILED"), "{console}");
        assert!(vmm.ended().is_none(), "{}", vmm.log());
        console.contains("@@READY")
    })
    .unwrap();
    ready(bed, "web1");
}

/// It needs KVM. Where that or the program is missing, the recording of its handshake stands in (`backend/front/tests/traces`).
#[test]
fn cloud_hypervisor_starts_a_guest_where_it_can() {
    let path = std::env::var_os("PATH").unwrap();
    let program =
        std::env::split_paths(&path).map(|folder| folder.join("cloud-hypervisor")).find(|file| file.is_file());
    let Some(program) = program else {
        skip!("no cloud-hypervisor in PATH (Debian has none): its handshake is replayed")
    };
    if !Lab::open().unwrap().kvm() {
        skip!("KVM runs no kernel here, and cloud-hypervisor needs it: its handshake is replayed");
    }
    let bed = start();
    std::fs::copy(program, bed.directory.path().join("cloud-hypervisor")).unwrap();
    let guest = GuestConfig { ip4: Ip4::Dhcp, ..GuestConfig::new("web1", 2, &bed.socket("web1")) };
    let initrd = format!("/tmp/{}", guest.initrd(&bed.lab, &bed.directory).unwrap());
    let boot = ["--kernel", "/tmp/vmlinuz", "--initramfs", &initrd, "--cmdline", &guest.linux()];
    let console = ["--serial", "file=/tmp/console", "--console", "off"];
    let words = launcher(&bed, "cloud-hypervisor.sh", &[&boot[..], &console].concat());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env("PATH", "/tmp:/usr/sbin:/usr/bin:/sbin:/bin");
    let mut vmm = bed.lab.start("cloud-hypervisor", &bed.directory, &mut command).unwrap();
    leased(&bed, &mut vmm);
}
