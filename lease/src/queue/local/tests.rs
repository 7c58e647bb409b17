#![allow(clippy::unwrap_used)]

mod disk;
mod killed;
mod refused;
pub(crate) mod setup;

use super::*;
use crate::testing::queue_contract;
use crate::{DelayQueue, ManualClock};
use setup::{Folder, Local, job};

// acceptance: B15 B16
#[tokio::test]
async fn in_memory() {
    queue_contract(&Local::in_memory()).await;
}

// acceptance: B15 B16 G6
#[tokio::test]
async fn in_a_file() {
    queue_contract(&Local::in_files()).await;
}
