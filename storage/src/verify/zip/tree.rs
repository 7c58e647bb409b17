//! The files and folders of a zip, to find names that cannot lie in one file system.
//!
//! A tree of elements rather than a set of whole names: its cost is linear in the bytes of the
//! names, where each name's parents as whole names would make it quadratic for a crafted one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::module::fold;

/// The most files and folders in one zip. Far above any module, and low enough that a crafted
/// directory of short names cannot take more than about 100 MB of memory, the names aside.
pub(super) const NODES_MAX: usize = 500_000;

/// The names seen so far.
#[derive(Default)]
pub(super) struct NameTree<'a> {
    /// By the parent's number (the top is 0) and the element, case-folded.
    nodes: HashMap<(u32, Cow<'a, str>), Node<'a>>,
}

struct Node<'a> {
    number: u32,
    element: &'a str,
    is_folder: bool,
}

impl<'a> NameTree<'a> {
    /// Adds a file or folder, and the folders above it.
    ///
    /// Fails when the file is there already, when a name is there in another case, or when one
    /// is both a file and a folder.
    ///
    /// Source: `golang.org/x/mod/zip`, `collisionChecker`.
    pub(super) fn add(&mut self, name: &'a str, is_folder: bool) -> Result<(), String> {
        let mut parent = 0;
        let mut elements = name.split('/').peekable();
        while let Some(element) = elements.next() {
            let is_last = elements.peek().is_none();
            let is_folder = is_folder || !is_last;
            parent = self.add_element(parent, element, is_folder)?;
        }
        Ok(())
    }

    fn add_element(
        &mut self,
        parent: u32,
        element: &'a str,
        is_folder: bool,
    ) -> Result<u32, String> {
        let count = self.nodes.len();
        match self.nodes.entry((parent, fold(element))) {
            Entry::Vacant(_) if count == NODES_MAX => {
                Err(format!("there are more than {NODES_MAX} files and folders"))
            }
            Entry::Vacant(vacant) => {
                let number = u32::try_from(count + 1).expect("NODES_MAX fits into 32 bits");
                vacant.insert(Node {
                    number,
                    element,
                    is_folder,
                });
                Ok(number)
            }
            Entry::Occupied(occupied) => {
                let node = occupied.get();
                if node.element != element {
                    return Err(format!("it differs from {:?} in case only", node.element));
                }
                if node.is_folder != is_folder {
                    return Err(format!("{element:?} is both a file and a folder"));
                }
                if !is_folder {
                    return Err("the file is there twice".to_owned());
                }
                Ok(node.number)
            }
        }
    }
}
