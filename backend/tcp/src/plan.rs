//! Which payload goes next.
//!
//! There is no congestion window: the path to the guest is memory. A frame is lost only when the guest's ring has no
//! buffer, which the caller sees before it polls, and what limits the rate is the guest's window. Sending less would
//! relieve nothing. So the pipe of RFC 6675 is bounded by the guest's window alone, in which all that was sent lies.

use crate::{DataPlan, Leg, Seq, action::PlanKind};

impl Leg {
    /// What of the guest's window is left from SND.NXT on.
    pub(crate) fn usable(&self) -> u32 {
        (self.snd.una + self.snd.wnd).beyond(self.snd.nxt)
    }

    /// Bytes from `seq` to the end of the host's stream; no bound while the end is not known.
    fn left_from(&self, seq: Seq) -> u32 {
        self.snd.fin.map_or(u32::MAX, |fin| fin.beyond(seq))
    }

    /// New payload into less room than this waits (RFC 9293 §3.8.6.2.1): one MSS, or half of the guest's largest
    /// window if that is less. The persist timer overrides it. There is no Nagle algorithm: the host's kernel has
    /// already given the stream its shape.
    fn silly(&self) -> u32 {
        u32::from(self.snd.mss).min(self.snd.max_wnd / 2).max(1)
    }

    /// Whether there is or may be something to send for which the guest's window has no room, and nothing is on its
    /// way whose ACK would change that: the case of the persist timer.
    pub(crate) fn blocked(&self) -> bool {
        let snd = &self.snd;
        if !self.state.sends() || snd.nxt != snd.una {
            return false;
        }
        let usable = self.usable();
        let fin = snd.fin == Some(snd.nxt);
        if snd.max.gt(snd.nxt) || fin {
            return usable == 0;
        }
        snd.readable && usable < self.silly() && usable < self.left_from(snd.nxt)
    }

    /// NextSeg of RFC 6675 §4: what is lost, then what is new, then what may be lost.
    pub(crate) fn plan(&mut self, max_payload: u32) -> Option<DataPlan> {
        self.plan_resend(max_payload)
            .or_else(|| self.plan_hole(max_payload, true))
            .or_else(|| self.plan_next(max_payload))
            .or_else(|| self.plan_hole(max_payload, false))
    }

    /// The next hole in what the guest has, once in a recovery. What is repeated in vain is left to the timeout.
    fn plan_hole(&self, max_payload: u32, lost: bool) -> Option<DataPlan> {
        let snd = &self.snd;
        if !snd.recovering || snd.board.is_empty() {
            return None;
        }
        let hole = snd.board.hole(snd.repeated.max(snd.una))?;
        let room = (snd.una + snd.wnd).beyond(hole.start).min(max_payload);
        let below = hole.start.lt(snd.nxt) && (!lost || snd.board.is_lost(hole.start, snd.mss));
        let max = self.frame((hole.end - hole.start).min(self.left_from(hole.start)), room);
        (below && max > 0).then_some(DataPlan {
            seq: hole.start,
            offset: hole.start - snd.una,
            max,
            kind: PlanKind::Resend,
        })
    }

    fn plan_resend(&mut self, max_payload: u32) -> Option<DataPlan> {
        let snd = &self.snd;
        if !self.due.resend || snd.nxt == snd.una {
            self.due.resend = false;
            return None;
        }
        // One frame, not one MSS: what gets lost on this path is a frame.
        let known = snd.board.next_after(snd.una).unwrap_or(snd.max);
        let sent = (known - snd.una).min(self.left_from(snd.una));
        let max = self.frame(sent, snd.wnd.min(max_payload));
        (max > 0).then_some(DataPlan { seq: snd.una, offset: 0, max, kind: PlanKind::Resend })
    }

    fn plan_next(&self, max_payload: u32) -> Option<DataPlan> {
        let snd = &self.snd;
        if !self.state.sends() || !snd.readable {
            return None;
        }
        // What the guest has after a timeout is passed over.
        let gap = snd.board.next_after(snd.nxt).map_or(u32::MAX, |start| start - snd.nxt);
        let left = self.left_from(snd.nxt).min(gap);
        let usable = self.usable();
        let (room, kind) = match usable {
            0 if self.due.probe => (1, PlanKind::Probe),
            0 => return None,
            _ => (usable, PlanKind::Next),
        };
        let again = snd.nxt.lt(snd.max);
        if room < self.silly() && room < left && !again && !self.due.probe {
            return None;
        }
        let max = self.frame(left, room.min(max_payload));
        (max > 0).then_some(DataPlan { seq: snd.nxt, offset: snd.nxt - snd.una, max, kind })
    }

    /// The payload of a frame that has `room` for it, of which `left` is left: whole segments, but for the last frame.
    fn frame(&self, left: u32, room: u32) -> u32 {
        let mss = u32::from(self.snd.mss);
        if room >= left {
            left
        } else if room > mss {
            room - room % mss
        } else {
            room
        }
    }
}
