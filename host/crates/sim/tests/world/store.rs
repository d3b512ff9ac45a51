//! The stores in memory keep the contract of stores.

use proptest::prelude::*;
use stillpoint_sim::{
    MemoryStore, World,
    conformance::{self, Action, Model},
};

proptest! {
    #[test]
    fn a_store_in_memory_does_what_a_map_does(actions in conformance::actions()) {
        run(&actions);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(actions: &[Action]) {
    Model::default().follow(&MemoryStore::new(), actions).await;
    Model::default().follow(&*World::new().ports().store, actions).await;
}

#[tokio::test]
async fn a_store_in_memory_keeps_to_the_limits() {
    conformance::limits(&MemoryStore::new()).await;
    conformance::limits(&*World::new().ports().store).await;
}

#[tokio::test]
async fn a_store_in_memory_appends_in_order() {
    conformance::appends(&MemoryStore::new()).await;
    conformance::appends(&*World::new().ports().store).await;
}

#[tokio::test]
async fn of_two_handles_on_a_world_one_wins() {
    let ports = World::new().ports();
    conformance::two_handles(&*ports.store, &*ports.clone().store).await;
}
