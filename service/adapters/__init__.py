"""Plumbline's detectors with the interfaces of other libraries, each imported by the user who wants it.

Importing this package imports none of these libraries.
"""
