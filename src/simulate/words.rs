//! Names: what the world's concepts and items are called.

/// Genres of the world; a concept is a mood of a genre.
pub const GENRES: [&str; 16] = [
    "crime",
    "romance",
    "science fiction",
    "horror",
    "documentary",
    "comedy",
    "western",
    "thriller",
    "musical",
    "fantasy",
    "war",
    "animation",
    "mystery",
    "adventure",
    "sport",
    "drama",
];
/// Moods, eight a genre.
pub const MOODS: [&str; 8] = ["dark", "feel-good", "slow-burn", "cult", "family", "festival", "fast-paced", "true-story"];

const ADJECTIVES: [&str; 16] = [
    "Silent", "Velvet", "Broken", "Golden", "Distant", "Burning", "Hidden", "Paper", "Winter", "Electric", "Hollow", "Crimson", "Gentle",
    "Restless", "Northern", "Second",
];
const NOUNS: [&str; 20] = [
    "Harbour", "Mirror", "Orchard", "Signal", "Bridge", "Letter", "Garden", "Engine", "River", "Lantern", "Station", "Meadow", "Compass",
    "Theatre", "Island", "Window", "Canyon", "Ferry", "Tower", "Violin",
];

/// Name of concept `idx` of 128: "dark crime".
#[must_use]
pub fn concept_name(idx: usize) -> String {
    format!("{} {}", MOODS[idx % MOODS.len()], GENRES[(idx / MOODS.len()) % GENRES.len()])
}

/// Title of item `idx`; the first 320 differ.
#[must_use]
pub fn item_title(idx: usize) -> String {
    let pair = idx % (ADJECTIVES.len() * NOUNS.len());
    let title = format!("{} {}", ADJECTIVES[pair % ADJECTIVES.len()], NOUNS[pair / ADJECTIVES.len()]);
    match idx / (ADJECTIVES.len() * NOUNS.len()) {
        0 => title,
        part => format!("{title} {}", part + 1),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_concepts_and_no_two_items_share_a_name() {
        assert_eq!((0..128).map(concept_name).collect::<BTreeSet<_>>().len(), 128);
        assert_eq!((0..1000).map(item_title).collect::<BTreeSet<_>>().len(), 1000);
    }
}
