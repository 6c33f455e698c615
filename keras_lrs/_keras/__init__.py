"""What the library needs of Keras, where Keras does not promise to keep it."""
