"""What an episode starts from: patient, beams, influence, goals and frozen anchors, built once."""
