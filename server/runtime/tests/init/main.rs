//! Real containers, seen from inside: each test plays the launcher, builds a plan by hand and reads what
//! the command says. They need root.

mod container;
mod join;
mod world;
