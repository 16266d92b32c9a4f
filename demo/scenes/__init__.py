"""Drawing synthetic street scenes; `demo.make_scenes` is the way in."""
