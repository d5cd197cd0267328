"""DICOM objects of one answered radiograph: pure functions of its header and the answer."""
