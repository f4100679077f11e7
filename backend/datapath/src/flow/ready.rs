//! Connections that have something to do, by port. Ports take turns, so that a guest with thousands of them keeps no neighbour waiting.
use crate::flow::table::FlowId;
use crate::spec::PortId;
use std::collections::VecDeque;

/// One list per port, and whose turn it is. They grow with what waits and never shrink: no allocation per frame.
#[derive(Default)]
pub struct ReadyLists {
    by_port: Vec<VecDeque<FlowId>>,
    /// Ports whose list is not empty, the next one first.
    turns: VecDeque<PortId>,
    len: usize,
}

impl ReadyLists {
    /// Puts a connection behind the others of its port.
    pub fn push(&mut self, port: PortId, id: FlowId) {
        let index = port as usize;
        if self.by_port.len() <= index {
            self.by_port.resize_with(index + 1, VecDeque::new);
        }
        let list = &mut self.by_port[index];
        if list.is_empty() {
            self.turns.push_back(port);
        }
        list.push_back(id);
        self.len += 1;
    }

    /// The next connection of the port whose turn it is.
    pub fn pop(&mut self) -> Option<FlowId> {
        let port = self.turns.pop_front()?;
        let list = self.by_port.get_mut(port as usize)?;
        let id = list.pop_front()?;
        if !list.is_empty() {
            self.turns.push_back(port);
        }
        self.len -= 1;
        Some(id)
    }

    /// How many connections wait.
    pub fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_take_turns_and_connections_keep_their_order() {
        let mut ready = ReadyLists::default();
        for (port, id) in [(7, 70), (7, 71), (7, 72), (0, 1), (3, 30), (3, 31)] {
            ready.push(port, id);
        }
        assert_eq!(ready.len(), 6);
        let mut taken: Vec<FlowId> = (0..3).filter_map(|_| ready.pop()).collect();
        // A connection that comes when its port's turn is over waits for the next.
        ready.push(0, 2);
        taken.extend(std::iter::from_fn(|| ready.pop()));
        assert_eq!(taken, [70, 1, 30, 71, 31, 2, 72]);
        assert_eq!((ready.len(), ready.pop()), (0, None));
    }

    #[test]
    fn two_thousand_connections_of_one_port_are_one_turn_ahead_of_a_neighbours() {
        let mut ready = ReadyLists::default();
        (0..2000).for_each(|id| ready.push(1, id));
        ready.push(2, 9999);
        assert_eq!([ready.pop(), ready.pop()], [Some(0), Some(9999)]);
    }
}
