//! What the front knows of a session, for a newer master.
use super::Front;
use super::migration::{Log, Transfer};
use crate::handover::FrontState;
use crate::memory::Table;

impl Front {
    pub(crate) fn save(&self) -> FrontState {
        let Front {
            offered,
            offered_protocol,
            rings,
            features,
            protocol_asked,
            protocol,
            log,
            logged_rings,
            transfer,
            owned,
            held,
            table,
            status,
            warned_of_seals,
        } = self;
        FrontState {
            offered: *offered,
            offered_protocol: *offered_protocol,
            rings: *rings,
            features: *features,
            protocol_asked: *protocol_asked,
            protocol: *protocol,
            log: log.save(),
            logged_rings: logged_rings.clone(),
            transfer: transfer.is_due(),
            owned: *owned,
            held: held.clone(),
            table: table.save(),
            status: *status,
            warned_of_seals: *warned_of_seals,
        }
    }

    pub(crate) fn restore(state: FrontState) -> Front {
        let FrontState {
            offered,
            offered_protocol,
            rings,
            features,
            protocol_asked,
            protocol,
            log,
            logged_rings,
            transfer,
            owned,
            held,
            table,
            status,
            warned_of_seals,
        } = state;
        Front {
            offered,
            offered_protocol,
            rings,
            features,
            protocol_asked,
            protocol,
            log: Log::restore(log),
            logged_rings,
            transfer: if transfer { Transfer::Lost } else { Transfer::None },
            owned,
            held,
            table: Table::restore(&table),
            status,
            warned_of_seals,
        }
    }
}
