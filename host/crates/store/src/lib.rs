//! (see host/docs/design.md)
