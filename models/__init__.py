"""The generator, in TensorFlow only: architecture, damage model, losses, training, export. Imports no Beam."""
