//! What captions say: attributes in, English out, and back.
//!
//! One grammar serves both directions. Captions are lower case, brackets may be left out:
//!
//! ```text
//! [a picture of|a drawing of] a [SIZE] COLOR SHAPE [in the POSITION] [on a BACKGROUND background]
//! [a picture of|a drawing of] a [SIZE] COLOR SHAPE RELATION a [SIZE] COLOR SHAPE [on a BACKGROUND background]
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use super::palette::{Background, Color, Position, Relation, Shape, Size, Word};
use super::scene::{Dice, Layout, Object, Scene};

/// What a caption names; whatever is `None` is left open.
///
/// Its `Display` is the caption in the usual words, without opening or synonyms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Description {
    /// The background, if named.
    pub background: Option<Background>,
    /// The object or objects.
    pub subject: Subject,
}

/// The objects that a caption names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// One object.
    Single {
        /// What is said about it.
        object: Named,
        /// Where it is, if named.
        position: Option<Position>,
    },
    /// Two objects.
    Pair {
        /// What is said about each.
        objects: [Named; 2],
        /// Where the first is, seen from the second; training captions always name it.
        relation: Option<Relation>,
    },
}

/// What a caption says about one object; training captions always name color and shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Named {
    /// Its size, if named.
    pub size: Option<Size>,
    /// Its color, if named.
    pub color: Option<Color>,
    /// Its shape, if named.
    pub shape: Option<Shape>,
}

/// Probability that training captions leave out what they may leave out.
const LEFT_OUT: f32 = 0.5;

/// Probability of each synonym, and of an opening.
const VARIED: f32 = 0.25;

/// What may stand before the first article.
const OPENINGS: [&str; 2] = ["a picture of", "a drawing of"];

impl Description {
    /// Names everything that a scene shows.
    pub fn of(scene: &Scene) -> Self {
        let subject = match scene.layout {
            Layout::Single { object, position } => {
                Subject::Single { object: Named::of(&object), position: Some(position) }
            }
            Layout::Pair { objects: [first, second], relation } => Subject::Pair {
                objects: [Named::of(&first), Named::of(&second)],
                relation: Some(relation),
            },
        };
        Self { background: Some(scene.background), subject }
    }

    /// Understands a caption or a prompt, with all synonyms and openings; `None` if it is not of
    /// the grammar.
    ///
    /// More lenient than captions are: capitals, commas, a final dot, `an`, `the`, no article, no
    /// color, `shape` or `object` for any shape, and `and` between two objects in no relation.
    pub fn parse(text: &str) -> Option<Self> {
        let words = text.to_lowercase().replace([',', '.'], " ");
        let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut rest = Rest(&words);
        OPENINGS.iter().any(|opening| rest.eat(opening));
        let subject = Subject::parse(&mut rest)?;
        let background = if rest.eat("on") { Some(parse_background(&mut rest)?) } else { None };
        rest.0.is_empty().then_some(Self { background, subject })
    }

    /// Leaves out what training captions may leave out, by lot.
    pub(super) fn thinned(mut self, dice: &mut Dice) -> Self {
        match &mut self.subject {
            Subject::Single { object, position } => {
                thin(&mut object.size, dice);
                thin(position, dice);
            }
            Subject::Pair { objects, .. } => {
                objects.iter_mut().for_each(|object| thin(&mut object.size, dice));
            }
        }
        thin(&mut self.background, dice);
        self
    }

    /// The caption with opening and synonyms by lot.
    pub(super) fn worded(&self, dice: &mut Dice) -> String {
        self.said(&mut Voice(Some(dice)))
    }

    fn said(&self, voice: &mut Voice) -> String {
        let mut text = voice.opening();
        match &self.subject {
            Subject::Single { object, position } => {
                text += &object.said(voice);
                text += &phrase(" in the ", *position, "", voice);
            }
            Subject::Pair { objects: [first, second], relation } => {
                text += &first.said(voice);
                text += &relation.map_or(" and ".into(), |relation| format!(" {relation} "));
                text += &second.said(voice);
            }
        }
        text + &phrase(" on a ", self.background, " background", voice)
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.said(&mut Voice(None)))
    }
}

impl Subject {
    fn parse(rest: &mut Rest) -> Option<Self> {
        let object = Named::parse(rest)?;
        let relation = rest.choose();
        if relation.is_some() || rest.eat("and") {
            return Some(Self::Pair { objects: [object, Named::parse(rest)?], relation });
        }
        let position = if rest.eat("in the") { Some(rest.choose()?) } else { None };
        Some(Self::Single { object, position })
    }
}

impl Named {
    /// Names everything but the place.
    pub fn of(object: &Object) -> Self {
        Self { size: Some(object.size), color: Some(object.color), shape: Some(object.shape) }
    }

    fn parse(rest: &mut Rest) -> Option<Self> {
        rest.eat_article();
        let (size, color, shape) = (rest.choose(), rest.choose(), rest.choose());
        let said = shape.is_some() || rest.eat("shape") || rest.eat("object");
        said.then_some(Self { size, color, shape })
    }

    fn said(&self, voice: &mut Voice) -> String {
        let size = phrase(" ", self.size, "", voice);
        let color = phrase(" ", self.color, "", voice);
        let shape = self.shape.map_or("shape", |shape| voice.say(shape));
        format!("a{size}{color} {shape}")
    }
}

/// `white background`, with or without an article.
fn parse_background(rest: &mut Rest) -> Option<Background> {
    rest.eat_article();
    let background = rest.choose()?;
    rest.eat("background").then_some(background)
}

/// Leaves out one attribute by lot.
fn thin<T>(attribute: &mut Option<T>, dice: &mut Dice) {
    attribute.take_if(|_| dice.chance(LEFT_OUT));
}

/// A word between its companions, or nothing if there is no word.
fn phrase<T: Word>(before: &str, word: Option<T>, after: &str, voice: &mut Voice) -> String {
    word.map_or(String::new(), |word| format!("{before}{}{after}", voice.say(word)))
}

/// Chooses words: the usual ones, or by lot if it has dice.
struct Voice<'a>(Option<&'a mut Dice>);

impl Voice<'_> {
    fn say<T: Word>(&mut self, word: T) -> &'static str {
        let (name, synonym) = word.spellings();
        synonym.filter(|_| self.varies()).unwrap_or(name)
    }

    fn opening(&mut self) -> String {
        let varies = self.varies();
        let dice = self.0.as_mut().filter(|_| varies);
        dice.map_or(String::new(), |dice| format!("{} ", dice.pick(&OPENINGS)))
    }

    fn varies(&mut self) -> bool {
        self.0.as_mut().is_some_and(|dice| dice.chance(VARIED))
    }
}

/// What is still to be parsed: words with one space between them.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// What follows if whole words are next, else `None`.
    fn after(&self, words: &str) -> Option<&'a str> {
        let rest = self.0.strip_prefix(words)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix(' ') }
    }

    fn eat(&mut self, words: &str) -> bool {
        let after = self.after(words);
        self.0 = after.unwrap_or(self.0);
        after.is_some()
    }

    fn eat_article(&mut self) {
        let _ = self.eat("a") || self.eat("an") || self.eat("the");
    }

    /// The value that comes next; of `top` and `top left` the one that says more.
    fn choose<T: Word>(&mut self) -> Option<T> {
        let spelled = |word: T| {
            let (name, synonym) = word.spellings();
            let rest = self.after(name).or_else(|| self.after(synonym?))?;
            Some((rest, word))
        };
        let (rest, word) =
            T::WORDS.iter().filter_map(|&word| spelled(word)).min_by_key(|(rest, _)| rest.len())?;
        self.0 = rest;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORANGE_DISC: Named =
        Named { size: Some(Size::Large), color: Some(Color::Orange), shape: Some(Shape::Circle) };

    #[test]
    fn captions_read_like_the_specification() {
        let position = Some(Position::TopLeft);
        let subject = Subject::Single { object: ORANGE_DISC, position };
        let one = Description { background: Some(Background::Gray), subject };
        assert_eq!(one.to_string(), "a large orange circle in the top left on a gray background");
        let box_ = Named { size: None, color: Some(Color::Blue), shape: Some(Shape::Square) };
        let subject =
            Subject::Pair { objects: [ORANGE_DISC, box_], relation: Some(Relation::LeftOf) };
        let two = Description { background: None, subject };
        assert_eq!(two.to_string(), "a large orange circle left of a blue square");
    }

    #[test]
    fn every_caption_is_understood() {
        for index in 0..5_000 {
            let mut dice = Dice::new(9, 2, index);
            let description = Description::of(&Scene::training(&mut dice)).thinned(&mut dice);
            let caption = description.worded(&mut dice);
            assert_eq!(Description::parse(&caption), Some(description), "{caption}");
            assert_eq!(Description::parse(&description.to_string()), Some(description));
        }
    }

    #[test]
    fn prompts_may_be_sloppy() {
        let parse = |text| Description::parse(text).map(|description| description.to_string());
        let read = |text, usual: &str| assert_eq!(parse(text).as_deref(), Some(usual), "{text}");
        read("A drawing of an Orange disc,  in the middle.", "a orange circle in the center");
        read("the BIG red plus on grey background", "a large red cross on a gray background");
        read("a star and a tiny green hoop", "a star and a small green ring");
        read("blue object in the bottom right", "a blue shape in the bottom right");
    }

    #[test]
    fn other_texts_are_not_understood() {
        let texts = [
            "",
            "a",
            "a red",
            "a red circles",
            "a red circle in the",
            "a red circle in the attic",
            "a red circle on a white",
            "a red circle left of",
            "a red circle on a white background in the top",
            "a picture of a drawing of a red circle",
            "ein roter Kreis",
        ];
        for text in texts {
            assert_eq!(Description::parse(text), None, "{text}");
        }
    }

    #[test]
    fn openings_and_synonyms_come_at_their_rate() {
        let subject = Subject::Single { object: ORANGE_DISC, position: Some(Position::Center) };
        let description = Description { background: Some(Background::Gray), subject };
        let captions: Vec<String> =
            (0..4_000).map(|index| description.worded(&mut Dice::new(9, 3, index))).collect();
        for (word, rate) in [("of", 0.25), ("picture", 0.125), ("disc", 0.25), ("big", 0.25)] {
            let found = captions.iter().filter(|caption| caption.contains(word)).count();
            assert!((found as f32 / 4_000.0 - rate).abs() < 0.03, "{word}: {found}");
        }
    }
}
