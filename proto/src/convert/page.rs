//! Pages of a list.
//!
//! A page token is the key of the last item of the page before. Items have an order that does not change, so nothing is
//! shown twice, and what is added or removed between two pages does no harm.

use stillpoint_common::Failure;

/// Which page a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    limit: usize,
    after: Option<String>,
}

impl Page {
    /// Reads `page_size` and `page_token`: 0 means `default`, more than `largest` is `largest`.
    ///
    /// # Errors
    /// A negative size, or a token that no list ever gave.
    pub fn parse(page_size: i32, page_token: &str, default: usize, largest: usize) -> Result<Self, Failure> {
        let size = usize::try_from(page_size)
            .map_err(|_| Failure::field("page_size", format!("must be 0 or more, not {page_size}")))?;
        if page_token.len() > 128 || page_token.chars().any(|c| !c.is_ascii_alphanumeric() && c != '-') {
            return Err(Failure::field("page_token", "is not one that a list gave"));
        }
        let limit = if size == 0 { default } else { size.min(largest) };
        Ok(Self { limit, after: (!page_token.is_empty()).then(|| page_token.to_owned()) })
    }

    /// The items of this page and the token of the next one, empty on the last.
    ///
    /// `items` are in order; `key` is what a token says of an item, and `past` tells whether the first key comes after
    /// the second in that order.
    pub fn cut<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        key: impl Fn(&T) -> String,
        past: impl Fn(&str, &str) -> bool,
    ) -> (Vec<T>, String) {
        let wanted = |item: &T| self.after.as_ref().is_none_or(|after| past(&key(item), after));
        let mut items = items.into_iter().filter(wanted);
        let page: Vec<T> = items.by_ref().take(self.limit).collect();
        let token = items.next().and_then(|_| page.last().map(&key));
        (page, token.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(items: &[u32], size: i32, past: fn(&str, &str) -> bool) -> Vec<Vec<u32>> {
        let (mut pages, mut token) = (Vec::new(), String::new());
        loop {
            let page = Page::parse(size, &token, 2, 3).unwrap();
            let (items, next) = page.cut(items.iter().copied(), u32::to_string, past);
            pages.push(items);
            token = next;
            if token.is_empty() {
                return pages;
            }
        }
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_repetition() {
        let (up, down) = (|a: &str, b: &str| a > b, |a: &str, b: &str| a < b);
        assert_eq!(walk(&[1, 2, 3, 4, 5], 0, up), [vec![1, 2], vec![3, 4], vec![5]]);
        assert_eq!(walk(&[5, 4, 3, 2, 1], 3, down), [vec![5, 4, 3], vec![2, 1]]);
        assert_eq!(walk(&[1, 2, 3], 100, up), [vec![1, 2, 3]]);
        assert_eq!(walk(&[], 0, up), [Vec::<u32>::new()]);
    }

    #[test]
    fn a_size_or_token_that_cannot_be_is_refused() {
        assert_eq!(Page::parse(-1, "", 50, 1000).unwrap_err().field.as_deref(), Some("page_size"));
        assert_eq!(Page::parse(0, "../x", 50, 1000).unwrap_err().field.as_deref(), Some("page_token"));
    }
}
