"""The standard's own words for header fields (DICOM PS3.3 C.7.3.1.1.1 and C.8.1.1, PS3.16 annex L).

Whoever made a file may have typed anything else there, a name included.
"""

from typing import Literal

OTHER = "other"
"""Stands for a value that is none of the field's words."""
Field = Literal["Modality", "ViewPosition", "BodyPartExamined"]

_TERMS: dict[Field, str] = {
    "Modality": """
        AR ASMT AU BDUS BI BMD CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO
        IOL IVOCT IVUS KER KO LEN LP LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA
        PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN
        RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC DR""",
    "ViewPosition": "AP PA LL RL RLD LLD RLO LLO L LAT LATERAL",
    "BodyPartExamined": """
        ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS
        CALCANEUS CAROTID CERVIX CHEST CHESTABDOMEN CHESTABDPELVIS CLAVICLE COCCYX COLON CSPINE
        CTSPINE EAR ELBOW ESOPHAGUS EXTREMITY EYE FACE FEMUR FIBULA FINGER FOOT FOREARM HAND HEAD
        HEADNECK HEART HIP HUMERUS ILIUM JAW KIDNEY KNEE LARYNX LEG LIVER LSPINE LSSPINE LUNG
        MAXILLA MEDIASTINUM NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELVIS NOSE ORBIT PANCREAS
        PATELLA PELVIS PHARYNX RADIUS RADIUSULNA RIB SACRUM SCAPULA SHOULDER SKULL SPINE SPLEEN
        SSPINE STERNUM STOMACH THIGH THORAX THUMB THYMUS THYROID TIBIA TIBIAFIBULA TLSPINE TOE
        TRACHEA TSPINE UTERUS WHOLEBODY WRIST""",
}
"""With them DR, L, LAT, LATERAL and THORAX, which are not the standard's but on many films."""
TERMS = {field: frozenset(words.split()) for field, words in _TERMS.items()}


def shown(field: Field, value: str) -> str:
    """A value as it may be shown: itself where it is one of the field's words, else `OTHER`."""
    return value if value in TERMS[field] else OTHER
