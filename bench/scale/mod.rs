//! Many ports, many connections, and one port that floods its neighbours, all on mock frontends.

mod connections;
mod flood;
mod ports;

use crate::book::Stage;

pub static STAGES: [&Stage; 3] = [&ports::STAGE, &connections::STAGE, &flood::STAGE];
