use super::*;

/// A manager's end, and one that speaks to it.
fn pair(watchdog: Option<Watchdog>) -> (UnixDatagram, ServiceManager) {
    let (manager, service) = UnixDatagram::pair().unwrap();
    manager.set_nonblocking(true).unwrap();
    service.set_nonblocking(true).unwrap();
    (manager, ServiceManager { socket: Some(service), watchdog, ..ServiceManager::default() })
}

fn heard(manager: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 1024];
    std::iter::from_fn(|| manager.recv(&mut buffer).ok().map(|n| String::from_utf8(buffer[..n].to_vec()).unwrap()))
        .collect()
}

#[test]
fn signs_of_life_come_at_half_the_interval_while_all_is_well() {
    let start = Instant::now();
    let half = Duration::from_millis(500);
    let (manager, mut service) = pair(Some(Watchdog { half, next: start }));
    let mut at = |milliseconds, well| service.tick(start + Duration::from_millis(milliseconds), well);
    at(0, true);
    at(499, true);
    at(500, false);
    at(999, true);
    at(1000, true);
    assert_eq!(heard(&manager), ["WATCHDOG=1"; 2]);
    assert_eq!(service.due(), Some(start + Duration::from_millis(1500)));
    assert_eq!(ServiceManager::default().due(), None, "without a watchdog nothing is ever due");
}

#[test]
fn only_a_reload_that_was_announced_ends() {
    let (manager, mut service) = pair(None);
    service.reloaded();
    assert!(heard(&manager).is_empty());
    service.reloading();
    service.reloaded();
    service.reloaded();
    let heard = heard(&manager);
    assert!(heard[0].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{heard:?}");
    assert_eq!(heard[1..], ["READY=1"]);
}

#[test]
fn a_manager_that_does_not_read_holds_nobody_up() {
    let (manager, service) = pair(None);
    (0..10_000).for_each(|_| service.status("again"));
    assert!(heard(&manager).len() < 10_000);
}
