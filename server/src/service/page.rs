//! Pages of a list that is ordered by time and id.
//!
//! A token says where the page before ended, not how many came before: what is deleted meanwhile
//! makes nobody miss an item.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use conti_shared::name::check_id;
use prost::Message;

use super::convert::{Field, Violations};

const SIZE_DEFAULT: u32 = 100;
const SIZE_MAX: u32 = 1000;
/// A page ends early rather than to be larger than this: clients take 4 MiB unless told otherwise.
const BYTES_MAX: usize = 2 * 1024 * 1024;
/// The digits of a time in a token.
const TIME_DIGITS: usize = 32;

/// Where an item stands in its list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    time: SystemTime,
    id: String,
}

impl Place {
    /// The place of an item.
    pub fn new(time: SystemTime, id: &str) -> Place {
        Place { time, id: id.to_owned() }
    }

    pub(super) fn token(&self) -> String {
        let since = self.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("{:032x}{}", since.as_nanos(), self.id)
    }

    pub(super) fn parse(token: &str) -> Option<Place> {
        let (time, id) = token.split_at_checked(TIME_DIGITS)?;
        check_id(id).ok()?;
        if !time.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let nanos = u128::from_str_radix(time, 16).ok()?;
        let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
        // Below 1,000,000,000.
        let rest = (nanos % 1_000_000_000) as u32;
        let time = UNIX_EPOCH.checked_add(Duration::new(seconds, rest))?;
        Some(Place { time, id: id.to_owned() })
    }
}

/// Which page is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    size: usize,
    after: Option<Place>,
}

impl Page {
    /// Checks the fields `page_size` and `page_token` of a request.
    pub fn parse(v: &mut Violations, size: u32, token: &str) -> Page {
        if size > SIZE_MAX {
            v.add(Field::root("page_size"), format_args!("is {size}, a page has 1 to {SIZE_MAX}"));
        }
        let after = Place::parse(token);
        if after.is_none() && !token.is_empty() {
            let problem = "is no token of this agent: repeat next_page_token as it was given";
            v.add(Field::root("page_token"), problem);
        }
        let size = if size == 0 { SIZE_DEFAULT } else { size };
        Page { size: size as usize, after }
    }

    /// Cuts the page out of an ordered list: its items as messages, and the token of the next.
    pub fn cut<T, M: Message>(
        &self,
        items: impl IntoIterator<Item = T>,
        place: impl Fn(&T) -> Place,
        message: impl Fn(T) -> M,
    ) -> (Vec<M>, String) {
        let mut page = Vec::new();
        let mut bytes = 0;
        let mut last = None;
        for item in items {
            let here = place(&item);
            if self.after.as_ref().is_some_and(|after| here <= *after) {
                continue;
            }
            if page.len() == self.size || bytes > BYTES_MAX {
                return (page, last.as_ref().map(Place::token).unwrap_or_default());
            }
            let message = message(item);
            bytes += message.encoded_len();
            page.push(message);
            last = Some(here);
        }
        (page, String::new())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(n: u64) -> Place {
        // Two items for each moment: the id decides.
        Place::new(UNIX_EPOCH + Duration::from_nanos(n / 2), &format!("{n:032x}"))
    }

    fn page(size: u32, token: &str) -> Page {
        super::super::convert::checked(|v| Page::parse(v, size, token)).unwrap()
    }

    proptest! {
        #[test]
        fn the_pages_together_are_the_list(count in 0u64..50, size in 1u32..20) {
            let items: Vec<u64> = (0..count).collect();
            let (mut all, mut token) = (Vec::new(), String::new());
            loop {
                let (part, next) = page(size, &token).cut(items.clone(), |&n| place(n), |n| n);
                prop_assert!(part.len() <= size as usize);
                all.extend(part);
                if next.is_empty() {
                    break;
                }
                token = next;
            }
            prop_assert_eq!(all, items);
        }

        #[test]
        fn a_token_is_read_back_and_anything_else_is_refused(
            n in any::<u64>(), other in any::<String>(), hex in "[0-9a-f]{60,68}",
        ) {
            prop_assert_eq!(Place::parse(&place(n).token()), Some(place(n)));
            prop_assert_eq!(Place::parse(&other), None);
            let _ = Place::parse(&hex);
        }
    }

    #[test]
    fn what_is_deleted_between_pages_makes_nobody_miss_an_item() {
        let (first, token) = page(2, "").cut([0, 1, 2, 3, 4u64], |&n| place(n), |n| n);
        assert_eq!(first, [0, 1]);
        let (second, token) = page(2, &token).cut([2, 3, 4u64], |&n| place(n), |n| n);
        assert_eq!((second, token.is_empty()), (vec![2, 3], false));
    }

    #[test]
    fn a_page_of_large_items_ends_early() {
        let large = || "x".repeat(1_500_000);
        let items = (0..3u64).map(|n| (n, large()));
        let (part, token) = page(0, "").cut(items, |(n, _)| place(*n), |(_, text)| text);
        assert_eq!((part.len(), token.is_empty()), (2, false));
    }

    #[test]
    fn sizes_and_tokens_that_make_no_sense_are_named() {
        let mut v = Violations::default();
        Page::parse(&mut v, 1001, "nonsense");
        let fields: Vec<&str> = v.named().iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["page_size", "page_token"]);
        assert_eq!(page(0, "").size, 100);
    }
}
