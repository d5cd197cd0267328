"""Clinical context: laboratory values, vitals and notes that belong to a study.

`hl7` splits HL7 v2 messages (hl7apy would check them by profiles that senders do not keep); what is
read of FHIR are a few fields, for which pydantic is enough; units are a table, so that none is
guessed.
"""
