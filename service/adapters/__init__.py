"""Plumbline's detectors with the interfaces of other libraries, which only users import.

Importing this package imports none of these libraries.
"""
