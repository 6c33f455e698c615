"""What the library needs of Keras and its backends, private parts included."""
