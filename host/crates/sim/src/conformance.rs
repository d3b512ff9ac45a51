//! What every store must do, as one test to run against each.
