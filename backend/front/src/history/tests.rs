use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn blame(deaths: u64, quarantined: bool) -> Blame {
    Blame { deaths, quarantined, ..Blame::default() }
}

#[test]
fn a_second_death_within_ten_minutes_is_no_accident() {
    let (mut blames, start) = (Blames::default(), Instant::now());
    assert!(!blames.note(1, false, start));
    assert!(!blames.note(2, false, start + SECOND), "another VM's");
    assert!(!blames.note(1, false, start + BLAME_WINDOW), "the first is forgotten");
    let last = start + BLAME_WINDOW + 2 * SECOND;
    assert!(blames.note(1, false, last - SECOND));
    assert!(!blames.note(1, false, last), "it is in quarantine already");
    assert_eq!(blames.all(last), BTreeMap::from([(1, blame(4, true)), (2, blame(1, false))]));
}

#[test]
fn what_engines_die_of_by_its_word_is_heard_no_more() {
    let (mut blames, now) = (Blames::default(), Instant::now());
    assert!(!blames.note(1, true, now) && !blames.is_unheard(1), "an accident");
    assert!(blames.note(1, true, now) && blames.is_unheard(1));
    assert!(blames.note(2, true, now) | blames.note(2, false, now) && !blames.is_unheard(2), "a frame was the second");
    assert!(!blames.note(2, true, now) && blames.is_unheard(2));
    blames.forgive_all();
    assert!(!blames.is_unheard(1) && !blames.is_unheard(2) && !blames.is_unheard(3));
}

#[test]
fn what_is_held_against_a_vm_is_so_by_another_master() {
    let (mut blames, start) = (Blames::default(), Instant::now());
    assert_eq!([1, 2, 2].map(|vm| blames.note(vm, false, start)), [false, false, true]);
    assert_eq!(blames.leave(2, start), Some(Duration::ZERO));
    assert_eq!(blames.pardon(start), [2]);
    assert!(blames.note(2, false, start));
    let later = start + 5 * SECOND;
    let mut blames = Blames::restore(blames.save(later), later + SECOND);
    // On its way it has aged no further: the second that nobody saw is the benefit of the doubt.
    let one = BlamedState { deaths: 1, lately: vec![5000], last: Some(5000), ..BlamedState::default() };
    assert_eq!(blames.save(later + SECOND)[&1], one);
    assert_eq!(blames.all(later + SECOND)[&2], Blame { wait: 5, ..blame(3, true) });
    assert!(blames.note(1, false, later + 2 * SECOND), "the second within the window");
    assert_eq!(blames.leave(2, later + 3 * SECOND), Some(3 * SECOND));
    let mut blames = Blames::restore(blames.save(later), later);
    assert_eq!((blames.pardon(later), blames.pardon(later + 7 * SECOND)), (vec![], vec![2]));
}

#[test]
fn who_is_forgiven_begins_anew() {
    let (mut blames, now) = (Blames::default(), Instant::now());
    assert_eq!([1, 1, 2, 2].map(|vm| blames.note(vm, false, now)), [false, true, false, true]);
    blames.forgive(1);
    assert_eq!(blames.all(now), BTreeMap::from([(1, blame(2, false)), (2, blame(2, true))]));
    assert_eq!([1, 1].map(|vm| blames.note(vm, false, now)), [false, true]);
    blames.forgive_all();
    assert!(blames.all(now).values().all(|blame| !blame.quarantined));
}

/// However fast its VMM comes and goes: how many engines has it ended?
#[test]
fn a_loop_of_connections_ends_fewer_and_fewer_engines() {
    let (mut blames, start) = (Blames::default(), Instant::now());
    let mut deaths = Vec::new();
    for second in 0..24 * 3600 {
        let now = start + SECOND * second;
        // Its VMM leaves, comes, and ends an engine if it can.
        blames.leave(1, now);
        blames.pardon(now);
        if !blames.all(now).get(&1).is_some_and(|blame| blame.quarantined) {
            blames.note(1, true, now);
            deaths.push(second);
        }
    }
    assert_eq!(deaths[..6], [0, 1, 2, 12, 32, 72], "two, one more, and then at growing intervals");
    assert!(deaths.windows(2).skip(11).all(|pair| pair[1] - pair[0] == 3600), "{deaths:?}");
    assert_eq!(deaths.len(), 34, "in a day: {deaths:?}");
}

#[test]
fn who_has_left_before_the_end_was_known_need_not_leave_again() {
    let (mut blames, now) = (Blames::default(), Instant::now());
    for vm in [1, 1, 2, 2, 3] {
        blames.note(vm, false, now);
    }
    blames.leave_all_but(&[2].into());
    assert_eq!((blames.pardon(now), blames.all(now)[&2].quarantined), (vec![1], true));
}

#[test]
fn a_machine_that_was_mended_comes_back_in_time_and_is_as_any_other_later() {
    let (mut blames, start) = (Blames::default(), Instant::now());
    let mut now = start;
    let mut waits = Vec::new();
    for round in 0..12 {
        now += SECOND;
        while !blames.note(1, false, now) {}
        assert_eq!(blames.due(), None, "its VMM is still there");
        let wait = blames.leave(1, now).unwrap();
        assert_eq!(wait, Duration::from_secs(blames.all(now)[&1].wait), "round {round}");
        assert_eq!(blames.due(), Some(now + wait));
        now += wait;
        assert_eq!(blames.pardon(now), [1]);
        assert_eq!((blames.leave(1, now), blames.due()), (None, None));
        waits.push(wait.as_secs());
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
    assert!(!blames.note(1, false, now + FORGOTTEN), "an accident");
}
