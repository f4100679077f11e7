//! Where one of the two answers otherwise than the script wants.

use crate::bench::Finding;

/// A step whose answer differs, in the words of the script.
struct Difference {
    case: &'static str,
    what: &'static str,
    subject: &'static str,
    saw: &'static str,
}

/// All of them, in both families. Their judgements stand in `backend/docs/rfc9293.md`.
const DIFFERENCES: &[Difference] = &[
    Difference {
        case: "broken_options_break_nothing",
        what: "a SYN with 40 times 255 is answered",
        subject: "linux",
        saw: "false",
    },
    Difference {
        case: "windows_are_scaled_by_at_most_14_and_never_negative",
        what: "a sliver of window is used",
        subject: "linux",
        saw: "true",
    },
    Difference {
        case: "a_hole_is_answered_by_duplicates_and_filled_by_one_ack",
        what: "acknowledgments once it is filled",
        subject: "vonic",
        saw: "1000",
    },
    Difference {
        case: "three_duplicate_acks_repeat_and_others_do_not",
        what: "payload after ACKs with ever smaller windows",
        subject: "linux",
        saw: "true",
    },
    Difference {
        case: "a_closed_window_is_probed_for_as_long_as_the_guest_answers",
        what: "a probe",
        subject: "linux",
        saw: "0 bytes at -1",
    },
    Difference {
        case: "a_window_that_shrinks_is_obeyed",
        what: "payload into a closed window",
        subject: "linux",
        saw: "true",
    },
    Difference {
        case: "closing_at_once_and_one_after_the_other",
        what: "a reset cuts TIME-WAIT short",
        subject: "linux",
        saw: "true",
    },
    Difference {
        case: "timestamps_are_echoed_checked_and_monotone",
        what: "acknowledgments of a segment without timestamp",
        subject: "linux",
        saw: "105",
    },
];

fn same(listed: &Difference, found: &Finding) -> bool {
    (listed.case, listed.what, listed.subject, listed.saw)
        == (found.case, &found.what[..], found.subject, &found.saw[..])
}

/// Those that are not among the differences.
pub fn unlisted(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|found| !DIFFERENCES.iter().any(|listed| same(listed, found))).collect()
}

/// Fails for a finding that is not listed, and for a difference that was not found in both families.
pub fn compare(findings: &[Finding]) {
    let mut lines: Vec<String> = unlisted(findings)
        .iter()
        .map(|found| {
            let Finding { case, what, subject, saw, wanted, family } = found;
            format!("{case}: {what}: {subject} over {family}: {saw:?}, not {wanted:?}")
        })
        .collect();
    for listed in DIFFERENCES {
        for family in ["IPv4", "IPv6"] {
            if !findings.iter().any(|found| found.family == family && same(listed, found)) {
                let Difference { case, what, subject, saw } = listed;
                lines.push(format!(
                    "{case}: {what}: {subject} over {family} is listed with {saw:?}, and does as wanted"
                ));
            }
        }
    }
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}
