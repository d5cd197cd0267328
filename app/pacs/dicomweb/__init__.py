"""DICOMweb (DICOM PS3.18): radiographs fetched from archives or stored through the page, and
answers sent to archives.

httpx does HTTP. dicomweb-client is not used: it holds whole answers in memory without a bound.
"""
