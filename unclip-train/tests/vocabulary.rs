//! A learned vocabulary reads every caption of the world in one token a word, and any other text
//! byte by byte.

use unclip_clip::{Tokenizer, TokenizerOptions};
use unclip_train::shapes::ShapesWorld;
use unclip_train::train_vocabulary;

fn tokenizer(folder: &std::path::Path) -> Tokenizer {
    let world = ShapesWorld::new(0);
    train_vocabulary(folder, 2000, (0..5000).map(move |index| world.sample(index).caption))
        .unwrap();
    let options = TokenizerOptions { context_length: 24, ..TokenizerOptions::default() };
    Tokenizer::from_folder(folder, options).unwrap()
}

#[test]
fn each_word_of_the_world_is_one_token() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(folder.path());
    let world = ShapesWorld::new(1);
    for index in 0..500 {
        let caption = world.sample(index).caption;
        let tokens = tokenizer.encode(&[&caption]);
        assert_eq!(tokens.len(0), caption.split(' ').count() + 2, "{caption}");
        assert_eq!(tokens.dropped(0), None, "{caption}");
    }
}

#[test]
fn any_text_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(folder.path());
    let tokens = tokenizer.encode(&["Ωmega", "", "🦊"]);
    assert!(tokens.len(0) > 3 && tokens.len(2) > 2);
    assert_eq!(tokens.len(1), 2);
}

/// Words of any script, as often as they come, are tokens of their own; so are those in capitals and before
/// a comma.
#[test]
fn captions_of_any_script_teach_words() {
    let folder = tempfile::tempdir().unwrap();
    let captions = ["It’s a Dog, a café… кошка 猫", "the dog’s кошка, café"];
    let repeated = captions.iter().cycle().take(40).map(|it| it.to_string());
    train_vocabulary(folder.path(), 500, repeated).unwrap();
    let tokenizer = Tokenizer::from_folder(folder.path(), TokenizerOptions::default()).unwrap();
    for word in ["dog", "Dog", "café", "кошка", "猫"] {
        let tokens = tokenizer.encode(&[word]);
        assert_eq!(tokens.len(0), 3, "{word} is one token between the marks");
    }
}

#[test]
fn the_same_captions_give_the_same_files() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let files = folders.each_ref().map(|folder| {
        tokenizer(folder.path());
        ["vocab.json", "merges.txt"].map(|name| std::fs::read(folder.path().join(name)).unwrap())
    });
    assert_eq!(files[0], files[1]);
}
