//! A tree of many small files as package managers leave it, what changes in it, and what it has to hold. Everything follows
//! from a seed: who knows the model knows every byte without reading any.

mod model;
mod shape;

pub(crate) use model::{Act, Change, File, Tree};
pub(crate) use shape::fill;
