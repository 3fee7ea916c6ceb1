"""Closed lists: findings, lines and tubes, tip locations, and the words that reports use for them.

The 19 findings and the ten types are those of the paper (Table 3, appendix A.7). The paper prints the placement rules of the
chest tube only; the other tip maps follow the same template and common radiological practice.
"""

FINDING_NAMES = {
    "hyperinflation": "Hyperinflation",
    "interstitial_lung_disease_pattern": "Interstitial lung disease pattern",
    "atelectasis": "Atelectasis",
    "costophrenic_angle_blunting": "Costophrenic angle blunting",
    "pleural_effusion": "Pleural effusion",
    "pneumothorax": "Pneumothorax",
    "adenopathy": "Adenopathy",
    "enlarged_pulmonary_artery": "Enlarged pulmonary artery",
    "arterial_calcification": "Arterial calcification",
    "osseous_abnormalities": "Osseous abnormalities",
    "rib_fracture": "Rib fracture",
    "bronchial_wall_thickening": "Bronchial wall thickening",
    "hernia": "Hernia",
    "subcutaneous_air": "Subcutaneous air",
    "opacity": "Opacity",
    "vascular_congestion": "Vascular congestion",
    "cardiomegaly": "Cardiomegaly",
    "diaphragm_elevation": "Diaphragm elevation",
    "pulmonary_edema": "Pulmonary edema",
}
FINDINGS = tuple(FINDING_NAMES)

TUBE_NAMES = {
    "ETT": "Endotracheal tube",
    "TT": "Tracheostomy tube",
    "NGT": "Nasogastric tube",
    "SGC": "Swan-Ganz catheter",
    "CT": "Chest tube",
    "MD": "Mediastinal drain",
    "IABP": "Intra-aortic balloon pump",
    "IJ": "Internal jugular central venous catheter",
    "PICC": "Peripherally inserted central catheter",
    "SC": "Subclavian central venous catheter or port",
}
TUBES = tuple(TUBE_NAMES)
UNROUTED = "CVC"
"""A central venous catheter whose route is not stated: an entry of its own, not one of the ten types."""

SIDES = ("left", "right", "midline", "N/A")
PLACEMENTS = ("correct", "incorrect", "unclear", "N/A")

_CENTRAL_VENOUS = {
    "SVC": "correct",
    "cavoatrial junction": "correct",
    "upper right atrium": "correct",
    "right atrium": "unclear",
    "brachiocephalic vein": "unclear",
    "subclavian vein": "incorrect",
    "axillary vein": "incorrect",
    "internal jugular vein": "incorrect",
    "azygos vein": "incorrect",
    "right ventricle": "incorrect",
    "IVC": "incorrect",
    "pulmonary artery": "incorrect",
    "extravascular": "incorrect",
}
TIP_PLACEMENT = {
    "ETT": {
        "mid trachea": "correct",
        "2-7 cm above carina": "correct",
        "above carina": "correct",
        "less than 2 cm above carina": "incorrect",
        "more than 7 cm above carina": "incorrect",
        "at thoracic inlet": "unclear",
        "above thoracic inlet": "incorrect",
        "at carina": "incorrect",
        "main bronchus": "incorrect",
        "esophagus": "incorrect",
    },
    "TT": {
        "mid trachea": "correct",
        "above carina": "correct",
        "at carina": "incorrect",
        "main bronchus": "incorrect",
        "outside trachea": "incorrect",
    },
    "NGT": {
        "stomach": "correct",
        "below diaphragm": "correct",
        "duodenum or beyond": "correct",
        "side port above gastroesophageal junction": "incorrect",
        "gastroesophageal junction": "incorrect",
        "esophagus": "incorrect",
        "airway": "incorrect",
    },
    "SGC": {
        "pulmonary artery": "correct",
        "pulmonary outflow tract": "unclear",
        "distal pulmonary artery": "incorrect",
        "right ventricle": "incorrect",
        "right atrium": "incorrect",
        "SVC": "incorrect",
        "IVC": "incorrect",
    },
    # The map that the paper prints for chest tubes.
    "CT": {
        "upper": "correct",
        "middle": "correct",
        "lower": "correct",
        "below diaphragm": "incorrect",
        "side port outside rib cage": "incorrect",
        "outside chest": "incorrect",
        "adjacent to mediastinum/esp aorta": "incorrect",
    },
    "MD": {"mediastinum": "correct", "outside chest": "incorrect"},
    "IABP": {
        "proximal descending aorta": "correct",
        "aortic arch": "incorrect",
        "above aortic arch": "incorrect",
        "low descending or abdominal aorta": "incorrect",
    },
    "IJ": _CENTRAL_VENOUS,
    "PICC": {**_CENTRAL_VENOUS, "brachiocephalic vein": "incorrect"},
    "SC": {**_CENTRAL_VENOUS, "subclavian vein": "unclear"},
    "CVC": {**_CENTRAL_VENOUS, "subclavian vein": "unclear", "internal jugular vein": "unclear"},
}
"""Type -> tip location -> placement. `unclear` and `N/A` map to themselves for each type."""

# How reports word the findings (lower case, white space squeezed). `stems`: a sentence without any of them is not searched. In
# `mention` the group `skip` is a look-alike that is no mention. `normal` states that the finding is absent without naming it.
_GAP = (
    r"(?:(?!\b(?:but|with|not|no|which|enlarg|borderline|cardiomegal|abnormal|stable|demonstrate|other)"
    r"|\benlarg)[^.;:]){0,80}?"
)
_NORMAL = r"\b(?:normal|unremarkable|within\s+(?:the\s+)?(?:limits\s+of\s+normal|normal))\b"
_HEART = r"\b(?:hearts?|cardiac|cardio-?mediastinal|cardio-?pericardial|cardiothymic)\b"
_LUNG_NORMAL = r"\b(?:clear|unremarkable|normal(?!ly|\s+(?:in\s+volume|volumes?|inflat|expan|aerat|vascul|lung\s+vol|pulm)))"
_DIAPHRAGM = r"(?:hemi-?\s?)?diaphragm\w*"
_VESSELS = r"(?:pulmonary\s+|central\s+|perihilar\s+|hilar\s+)*\b(?:vascul\w+|vessels|veins)"
_ARTERY = r"\b(?:aort\w+|arch|knob|coronar\w+|arter(?:y|ies|ial)|vascular|carotids?)\b"
_BONES = r"\b(?:bony|osseous|skeletal|bones?|skeleton|rib\s?cage)\b"


FINDING_STEMS: dict[str, tuple[str, ...]] = {
    "hyperinflation": ("hyper", "over", "flatten", "lung volume", "trapping", "normally"),
    "interstitial_lung_disease_pattern": ("interstiti", "reticul", "fibro", "honeycomb", "ild"),
    "atelectasis": ("atelecta", "collaps"),
    "costophrenic_angle_blunting": ("blunt", "obliterat", "costophrenic", "cp angle"),
    "pleural_effusion": ("effusion", "fluid", "thorax", "empyema"),
    "pneumothorax": ("thora", "ptx"),
    "adenopathy": ("adenopath", "node", "nodal"),
    "enlarged_pulmonary_artery": ("pulmonary arter", "pulmonary trunk", "pulmonary outflow"),
    "arterial_calcification": ("calcif", "athero", "arterioscl"),
    "osseous_abnormalities": (
        "degenerat", "osteo", "spondyl", "scolio", "kypho", "demineral", "fractur", "arthr", "spur", "hyperostosis", "dish",
        "pectus", "deformit", "wedg", "height", "lesion", "disc ", "disk", "sublux", "dislocat", "rib", "exosto", "bone",
        "bony", "osseous", "skelet", "endplate", "hypertrophic", "curvature", "necrosis", "paget", "callus", "ankylos",
        "schmorl", "thoracotomy",
    ),
    "rib_fracture": ("rib",),
    "bronchial_wall_thickening": ("bronch", "airway", "cuffing"),
    "hernia": ("hernia", "intrathoracic stomach"),
    "subcutaneous_air": ("subcutaneous", "soft tissue", "chest wall"),
    "opacity": (
        "opac", "consolidat", "infiltrat", "air space", "airspace", "air-space", "densit", "haz", "glass", "alveolar", "lung",
        "pneumoni",
    ),
    "vascular_congestion": ("congest", "vascul", "vessel", "vein", "venous", "engorg", "cephali"),
    "cardiomegaly": ("heart", "cardi"),
    "diaphragm_elevation": ("diaphragm", "eventrat"),
    "pulmonary_edema": ("edema", "oedema"),
}  # fmt: skip

FINDING_MENTIONS: dict[str, str] = {
    "hyperinflation": (
        r"\b(?:hyper|over)[- ]?(?:inflat|expan|a?erat|disten)\w*|\bhyper-?lucen\w*"
        rf"|flatten\w*[^.;]{{0,50}}{_DIAPHRAGM}|{_DIAPHRAGM}[^.;,]{{0,30}}flatten\w*"
        r"|\b(?:large|increased|high)\s+lung\s+volumes?|lung\s+volumes?\s+(?:are|is|appear)\s+(?:\w+ly\s+)?(?:increased"
        r"|large|high)|air[- ]trapping"
    ),
    "interstitial_lung_disease_pattern": (
        r"(?P<skip>interstiti\w+[\s/]+(?:(?:and|or|alveolar|pulmonary|lung)[\s/]+){0,3}o?edema|(?:alveolar\s+(?:and"
        r"|or)\s+)interstitial\s+o?edema"
        r"|cystic\s+fibrosis|linear\s+fibrosis|pleural\s+fibrosis)|\binterstiti\w+|\breticul(?!ocyt)\w+|\bfibro(?:sis"
        r"|tic)\b|honeycomb\w*|\bild\b"
    ),
    "atelectasis": (
        r"atelecta\w+|collaps\w*[^.;,]{0,25}\b(?:lungs?|lobes?|lobar)\b|\b(?:lungs?|lobes?|lobar"
        r"|lingular?)\s+(?:\w+\s+){0,2}?collaps\w*"
    ),
    "costophrenic_angle_blunting": (
        r"(?:blunt|obliterat)\w*[^.;]{0,60}(?:costo-?\s?phrenic|\bcp\s+angle|sulc(?:us|i)|cost\w+\s+angle)"
        r"|(?:costo-?\s?phrenic|\bcp\s+angle|sulc(?:us|i)|\bcp\b)[^.;]{0,50}(?:blunt|obliterat)\w*"
    ),
    "pleural_effusion": (
        r"(?P<skip>(?:pericardial|joint|subdural)\s+(?:effusions?|fluid))"
        r"|(?P<pericardial>pericardial\s+or\s+)?\beffusions?|pleural\s+(?:based\s+)?fluid"
        r"|fluid\s+in\s+the\s+(?:\w+\s+){0,2}(?:pleura\w*|fissure)"
        r"|(?:h[a]?emo|hydro)(?:pneumo)?-?thora\w+|empyema|(?:loculated|fissural)\s+fluid"
    ),
    "pneumothorax": r"pneumo-?\s?thora(?:x|c)\w*|\bptx\b",
    "adenopathy": (
        r"(?P<skip>calcif\w+\s+(?:\w+\s+){0,3}(?:(?:lymph)?adenopath\w+|nodes?))"
        r"|(?:lymph\s?)?adenopath\w+|(?:enlarge\w*|prominent|bulky)\s+(?:\w+\s+){0,3}(?:lymph\s+)?nodes?\b"
        r"|nodal\s+enlargement|nodes?\s+(?:is|are|appear)\s+enlarged"
    ),
    "enlarged_pulmonary_artery": (
        r"(?:enlarge\w*|prominen\w*|dilat\w*|bulky)\s+(?:(?:of|the|main|central|right|left|and|hilar|bilateral"
        r"|proximal)\s+)*pulmonary\s+(?:arter(?:y|ies)|trunk|outflow|arterial\s+(?:trunk|segment))"
        r"|pulmonary\s+(?:arter(?:y|ies|ial)|trunk|outflow\s+tract)[^.,;]{0,40}(?:enlarge|prominen|dilat)\w*"
    ),
    "arterial_calcification": (
        r"(?P<skip>(?:aortic|mitral)\s+(?:valv\w+|annul\w+)[^.;,]{0,20}calcif\w*|calcif\w*[^.;,]{0,20}(?:aortic"
        r"|mitral)\s+(?:valv\w+|annul\w+)"
        r"|calcif\w*\s+(?:\w+\s+){0,3}(?:granulom\w+|nod\w+|lymph))"
        rf"|athero(?:scl|mat)\w+|arterioscl\w+|calcif\w*[^.;,]{{0,45}}?{_ARTERY}|{_ARTERY}[^.;,]{{0,45}}?calcif\w*"
    ),
    "osseous_abnormalities": (
        r"(?P<skip>wires?[^.;,]{0,30}fractur\w*|fractur\w*\s+(?:\w+\s+){0,2}wires?)"
        r"|degenerat\w+|osteo(?:phy|pen|por|arth|chon|lys|lyt)\w+|\bspondyl\w+|\w*scoliosis|\w*scoliotic|kypho\w+"
        r"|demineral\w+|fractur\w*|\barthr(?:i|os|op)\w+|\bspur(?:s|ring)?\b"
        r"|hyperostosis|\bdish\b|\bpectus\b|(?:compression|vertebral|ribs?|clavic\w+|bony|osseous|wedg\w+|chest\s+wall"
        r"|humer\w+|sternal|shoulder|body)\s+(?:\w+\s+)?deformit\w+"
        r"|deformit\w+\s+(?:of|involving|in|within)\s+(?:the\s+)?(?:\w+\s+){0,4}(?:ribs?|clavicle|vertebra\w*|humerus"
        r"|sternum|body|bodies|spine|shoulder)|wedging|wedge\s+compression"
        r"|(?:vertebral|body)\s+height\s+loss|loss\s+of\s+(?:vertebral\s+)?(?:body\s+)?height|(?:lytic|blastic"
        r"|sclerotic|destructive|osseous|bony|bone)\s+(?:metasta\w+|lesions?)"
        r"|dis[ck]\s+(?:space\s+)?(?:narrowing|disease|height)|sublux\w+|dislocat\w+|(?:cervical|bifid)\s+ribs?"
        r"|exosto\w+|bone\s+island|(?:osseous|bony|skeletal)\s+metasta\w+"
        r"|endplate|hypertrophic\s+(?:\w+\s+)?(?:change|spur|endplate)\w*|(?:spinal|spine)\s+curvature"
        r"|curvature\s+of\s+the\s+(?:\w+\s+)?spine|(?:avascular|aseptic)\s+necrosis|\bpaget\w*|callus|ankylos\w+"
        r"|schmorl\w*"
        r"|rib\s+(?:resection|defect)|thoracotomy\s+(?:change|defect|deformit)\w*"
    ),
    "rib_fracture": r"\bribs?\b[^.;]{0,50}fractur\w*|fractur\w*[^.;]{0,40}\bribs?\b",
    "bronchial_wall_thickening": (
        r"\b(?:peri)?-?bronch\w*\s+(?:(?:and|or)\s+\w+\s+)?(?:wall\s+)?(?:thicken\w*|cuffing)|bronchitic"
        r"|thicken\w*\s+(?:of\s+)?(?:the\s+)?(?:peri)?(?:bronch\w+|airway)"
        r"|airways?\s+(?:wall\s+)?thicken\w*|\bcuffing\b"
    ),
    "hernia": r"(?P<skip>(?:inguinal|umbilical|ventral|abdominal|incisional|femoral)\s+(?:wall\s+)?hernia\w*)"
    r"|\bhernias?\b|intrathoracic\s+stomach",
    "subcutaneous_air": r"subcutaneous\s+(?:\w+\s+){0,2}?(?:emphysema|gas|air)\b|(?:soft\s+tissues?"
    r"|chest\s+wall)\s+(?:emphysema|gas|air)\b",
    "opacity": (
        r"(?P<skip>(?:bone|bony|breast|metal\w*|calcif\w*|calcific|surgical|foreign|radio\w*|mineral|osseous|nodular"
        r"|soft\s+tissue)\s+densit\w+|pneumoni\w*ectomy)"
        r"|(?<!radio)(?<!radio-)opaci\w+|consolidat\w+|infiltrat\w+|air[- ]?spaces?\b|\bdensit(?:y|ies)\b|\bhaz(?:e|y"
        r"|iness)\b|ground[- ]?glass|alveolar\s+(?:disease|process|filling)"
    ),
    "vascular_congestion": (
        r"(?P<skip>congestive\s+(?:heart|cardiac)\s+failure)"
        r"|\b(?:vascular|venous|vessels?|vasculature|vascularity|hilar)\s+(?:congest\w*|engorge\w*|prominence"
        r"|redistribution|fullness)|\bcongest(?:ion|ed|ive\s+changes?)\b|cephali[sz]ation"
        r"|pulmonary\s+venous\s+hypertension|(?:prominen\w*|engorge\w*|increased|congested|distended"
        rf"|distention)\s+(?:of\s+)?(?:the\s+)?{_VESSELS}"
        r"|(?:pulmonary|central|hilar)\s+(?:vascul\w+|vessels|veins)[^.;,]{0,40}(?:prominen\w*|engorge\w*|congest\w*"
        r"|increased|distended|redistribut\w*)"
    ),
    "cardiomegaly": (
        rf"cardiomegal\w*|{_HEART}[^.;]{{0,60}}?\b(?:enlarge\w*|large|increased\s+in\s+size)\b|\b(?:enlarge(?:d|ment)"
        rf"|large)\s+(?:of\s+)?(?:the\s+)?(?:\w+\s+)?{_HEART}(?!\s+failure)"
    ),
    "diaphragm_elevation": rf"elevat\w*[^.;,]{{0,40}}{_DIAPHRAGM}|{_DIAPHRAGM}[^.;,]{{0,40}}elevat\w*|eventrat\w+",
    "pulmonary_edema": r"(?P<skip>(?:soft\s+tissue|peripheral|subcutaneous|chest\s+wall|body\s+wall|leg|extremity"
    r"|pedal)\s+o?edema)|\bo?edema\w*",
}

FINDING_NORMAL: dict[str, str] = {
    "hyperinflation": rf"normally\s+(?:inflated|expanded|aerated)|normal\s+lung\s+volumes?|lung\s+volumes?{_GAP}{_NORMAL}",
    "interstitial_lung_disease_pattern": rf"normal\s+interstitial|interstiti\w+{_GAP}{_NORMAL}",
    "costophrenic_angle_blunting": (
        rf"(?:costophrenic|\bcp)\s+\w+{_GAP}\b(?:sharp|clear|normal|unremarkable|preserved|within\s+normal)|\b(?:sharp"
        rf"|clear|normal)\s+(?:\w+\s+){{0,2}}costophrenic"
    ),
    "enlarged_pulmonary_artery": rf"pulmonary\s+arter\w+{_GAP}{_NORMAL}",
    "osseous_abnormalities": (
        rf"{_BONES}{_GAP}(?:{_NORMAL}|\bintact\b)|\b(?:normal|intact|unremarkable)\s+(?:\w+\s+)?{_BONES}"
        r"|\bno\s+(?:(?:significant|definite|other|obvious|focal|gross|evidence\s+of"
        rf"|evident)\s+)*{_BONES}\s+(?:structural\s+)?abnormalit"
    ),
    "rib_fracture": r"\bribs\s+(?:are|appear)\s+(?:\w+ly\s+)?intact",
    "opacity": (
        r"\blungs?\b(?!\s+(?:volumes?|apices|disease|cancer|nodul|mass))(?:(?!\b(?:not|no|which|volumes?|abnormal"
        r"|clear\w)\b)[^.;:]){0,70}?" + _LUNG_NORMAL +
        r"|\b(?:clear|normal)\s+(?:\w+\s+)?lungs?\b(?!\s+vol)"
    ),
    "vascular_congestion": (
        r"\b(?:vascularity|vasculature|vasculatures|vascular\s+(?:markings?|pattern|structures|caliber)"
        rf"|pulmonary\s+(?:vessels|veins)){_GAP}{_NORMAL}"
        r"|\bnormal\s+(?:\w+\s+){0,2}(?:vascularity|vasculature|vascular\s+(?:markings?|pattern))"
    ),
    "cardiomegaly": (
        rf"{_HEART}{_GAP}(?:{_NORMAL}|\b(?:upper|top|high)[- ]+(?:limits?\s+(?:of\s+)?)?normal)"
        rf"|\bnormal(?:[- ]sized?)?\s+(?:\w+\s+){{0,2}}{_HEART}|(?:upper"
        rf"|top)\s+(?:limits?\s+(?:of\s+)?)?normal\s+(?:\w+\s+)?{_HEART}"
    ),
    "diaphragm_elevation": rf"diaphragms?\b{_GAP}{_NORMAL}",
}  # fmt: skip

BORDERLINE_HEART = rf"borderline\s+(?:\w+\s+)?{_HEART}|{_HEART}[^.;]{{0,40}}?\b(?:borderline|mildly\s+prominent|prominent)\b"
"""Neither enlarged nor normal."""

POSITIVE_ONLY = {"opacity": r"\bpneumonias?\b|bronchopneumonia"}
"""Words that imply the finding when affirmed; their denial ("no pneumonia") says nothing about it."""

NOT_DENIED_BY_PARTS = frozenset({"osseous_abnormalities"})
"""Findings that cover many things: denying one of them ("no scoliosis") does not deny the finding; only `normal` does."""

# How reports word the devices (lower case, white space squeezed), tried in this order at each place. `skip`: look-alikes.
_LINE = r"(?:lines?|catheters?|cvcs?|cvls?|sheaths?|introducers?|cordis)"
_VENOUS = (
    r"(?:(?:approach|vein|central|venous|access|vascular|dialysis|hemodialysis|tunneled|triple[- ]lumen|double[- ]lumen"
    r"|dual[- ]lumen|large[- ]bore|temporary)\s+)*"
)
TUBE_MENTIONS: dict[str, str] = {
    "skip": (
        r"side[- ]?(?:ports?|holes?)|(?:gastrostomy|jejunostomy|percutaneous|peg)\s+(?:feeding\s+|gastric\s+"
        r"|enteric\s+)?tubes?|(?:pericardial|biliary|hepatic|abdominal|nephrostomy|ureteral|surgical)"
        r"\s+(?:pigtail\s+)?(?:catheters?|drains?|tubes?)|pigtail\s+(?:nephrostomy|biliary|pericardial|ureteral)\s+\w+"
        r"|trache(?:al|ostomy)\s+(?:stent|scar|defect)|(?:left|right)\s+port\s+side"
    ),
    "SGC": r"swan[- ]?ganz(?:\s+(?:catheters?|lines?))?|\bswan\b|pulmonary\s+arter(?:y|ial)\s+(?:catheters?|lines?)"
           r"|\bpa\s+(?:catheters?|lines?)",
    "IABP": r"intra-?\s?aortic\s+(?:counterpulsation\s+)?balloon(?:\s+(?:pump|catheter"
            r"|counterpulsation)s?)?(?:\s+(?:device|catheter))?(?:\s*\(iabp\))?|\biabp\b|(?:aortic\s+)?balloon\s+pump",
    "ETT": r"endotracheal(?:\s+tubes?)?(?:\s*\(ett\))?|\be\.?t\.?\s+tubes?|\bett\b|\bet\b(?=(?:,|\s+and|/)\s*(?:ng|og"
           r"|naso|oro|enteric|feeding|dobb))",
    "TT": r"tracheostom\w+(?:\s+(?:tubes?|cannulas?|appliances?|device))?|\btrach\b(?:\s+tube)?",
    "MD": (
        r"mediastinal\s+(?:chest\s+)?(?:drains?|tubes?|drainage\s+\w+|catheters?)|\bmediastinal(?=(?:,|\s+and"
        r"|/)\s*(?:\w+\s+){0,3}(?:chest|pleural|thoracostomy)\s+(?:tubes?|drains?))"
        r"|(?:sub|retro)sternal\s+drains?"
    ),
    "CT": (
        r"\bpigtail(?:\s+(?:pleural|chest|thoracostomy|drainage))?\s+(?:catheters?|drains?|tubes?)|\bpigtails?\b"
        r"|\b(?:chest|pleural)\s+(?:drainage\s+|pigtail\s+)?(?:tubes?|drains?|catheters?)"
        r"|thoracostomy(?:\s+(?:tubes?|catheters?|drains?))?|pleur-?x(?:\s+(?:catheters?|drains?|tubes?))?"
        r"|intercostal\s+(?:drains?|tubes?)|drainage\s+(?:catheters?|tubes?)|(?:thoracic|basal|basilar|apical)\s+drains?"
    ),
    "NGT": (
        r"(?:naso|oro)-?(?:gastric|enteric|jejunal|duodenal)(?:\s+(?:feeding\s+)?(?:tubes?|catheters?))?"
        r"|entero?gastric\s+tubes?|esophagogastric\s+tubes?"
        r"|(?:\b(?:enteric|feeding|gastric|weighted|sump|corpak|keofeed|ng|og)|dobb?-?\s?hoff\w*)\s+(?:feeding\s+"
        r"|enteric\s+)?(?:tubes?|catheters?)|dobb?-?\s?hoff\w*|\b[no]gt\b|\bdht\b"
        r"|\b(?:ng|og|enteric)\b(?=(?:,|\s+and|/)\s*(?:\w+\s+){0,2}tubes?)"
    ),
    "PICC": r"\bpiccs?\b(?:\s+(?:lines?|catheters?))?"
            r"|peripherally\s+inserted\s+(?:central\s+)?(?:venous\s+)?(?:catheters?|lines?)(?:\s*\(picc\))?",
    "SC": (
        r"port-?\s?a-?\s?cath\w*|porta-?\s?cath\w*|\bmedi-?ports?|power-?ports?|infus[ea]-?a?-?ports?|(?:venous"
        r"|vascular)\s+access\s+(?:ports?|devices?)|\bports?(?:\s+catheters?)?\b"
        rf"|\bsubclavian\s+(?:vein\s+)?{_VENOUS}(?:{_LINE}|ports?)|\bsubclavian\s+approach|(?:via|from)\s+(?:an?\s+"
        r"|the\s+)?(?:left\s+|right\s+)?subclavian(?:\s+(?:vein|approach))*"
    ),
    "IJ": (
        rf"\b(?:internal\s+jugular|jugular|ij)\s+(?:vein\s+)?{_VENOUS}{_LINE}|\b(?:internal\s+jugular"
        r"|ij)\s+(?:vein\s+)?approach"
        r"|(?:via|from|through)\s+(?:an?\s+|the\s+)?(?:left\s+|right\s+)?(?:internal\s+jugular|ij)(?:\s+(?:vein|approach))*"
    ),
    "CVC": (
        rf"\bcentral\s+(?:venous\s+|vascular\s+)?(?:access\s+)?{_LINE}|\bcv[cl]s?\b|(?:hemo)?dialysis\s+{_LINE}"
        rf"|perma-?cath\w*|hickman\w*(?:\s+{_LINE})?|broviac|groshong|quinton|vas-?cath\w*"
        rf"|\bvenous\s+{_LINE}|vascular\s+(?:catheters?|sheaths?)|(?:tunneled|triple[- ]lumen|double[- ]lumen"
        rf"|dual[- ]lumen)\s+(?:\w+\s+)?{_LINE}"
    ),
}  # fmt: skip
UNNAMED_DEVICES = (
    r"\b(?:lines?\s*(?:and|/|&)\s*tubes?|tubes?\s*(?:and|/|&)\s*(?:lines?|catheters?)|support(?:ing|ive)?\s+(?:devices?"
    r"|apparatus|lines?|hardware|tubes?|equipment)|lines,?\s+tubes)\b"
)
"""Devices that are spoken of without a name ("support lines are unchanged"): which ones are present is not known."""
UNNAMED_ABSENT = rf"\bno\s+(?:visible\s+|indwelling\s+|support\s+)?(?:{UNNAMED_DEVICES[2:]})"

_CARINA = r"(?:the\s+)?(?:level\s+of\s+the\s+)?carina"
_VEINS = {
    "cavoatrial junction": r"cavo-?\s?atrial|atrio-?\s?caval|(?:svc|superior\s+vena\s+cava|caval)[\s/-]*(?:and\s+"
    r"|-\s*)?(?:the\s+)?(?:right\s+)?(?:ra\b|atri\w+)?[\s-]*junction",
    "upper right atrium": r"(?:upper|high|superior|proximal)\s+(?:portion\s+of\s+(?:the\s+)?)?right\s+atri\w+|(?:upper"
    r"|high)\s+ra\b",
    "right atrium": r"right\s+atri\w+|\bra\b|\batrium",
    "right ventricle": r"right\s+ventric\w+|\brv\b",
    "IVC": r"inferior\s+vena\s+cava|\bivc\b|hepatic\s+vein",
    "SVC": r"(?:brachiocephalic|innominate)[^.;,]{0,20}(?:svc|vena\s+cava|confluence|junction)|\bsvc\b"
    r"|(?<!inferior )vena\s+cava|caval\s+confluence",
    "azygos vein": r"azygos",
    "brachiocephalic vein": r"brachiocephalic|innominate",
    "axillary vein": r"axilla\w*",
    "subclavian vein": r"subclavian",
    "internal jugular vein": r"jugular|\bij\b|\bneck\b",
    "pulmonary artery": r"pulmonary\s+arter\w+",
    "extravascular": r"extra-?vascular",
}
TIP_PATTERNS: dict[str, dict[str, str]] = {
    "ETT": {
        "main bronchus": r"main\s?-?stem|\bbronch(?:us|i)\b|below\s+(?:the\s+)?carina",
        "esophagus": r"o?esophag\w+",
        "less than 2 cm above carina": rf"(?:just|slightly|immediately|barely|shortly)\s+above\s+{_CARINA}|(?:close"
                        rf"|near)\s+(?:to\s+)?{_CARINA}",
        "above carina": rf"(?:above|proximal\s+to|superior\s+to|cephalad\s+to)\s+{_CARINA}",
        "at carina": rf"(?:at|over|on|to|near)\s+{_CARINA}|\bcarina",
        "above thoracic inlet": r"above\s+(?:the\s+)?(?:level\s+of\s+)?(?:the\s+)?(?:thoracic\s+inlet"
                        r"|(?:medial\s+)?clavic\w+)|\bc[4-7]\b",
        "at thoracic inlet": r"thoracic\s+inlet|clavic\w+",
        "mid trachea": r"trachea\w*|aortic\s+(?:arch|knob)|\bt[2-5]\b",
    },
    "TT": {
        "main bronchus": r"main\s?-?stem|\bbronchus\b",
        "above carina": rf"above\s+{_CARINA}",
        "at carina": rf"at\s+{_CARINA}",
        "outside trachea": r"outside\s+(?:of\s+)?(?:the\s+)?trachea|extra-?tracheal",
        "mid trachea": r"trachea\w*|\bmidline\b|thoracic\s+inlet",
    },
    "NGT": {
        "side port above gastroesophageal junction": (
            r"side[- ]?(?:ports?|holes?)(?:(?!below|beyond|past|distal\s+to|stomach)[^.;]){0,60}(?:gastro-?esophageal"
            r"|\bge\s+junction|\bgej?\b|o?esophag)"
        ),
        "airway": r"bronch\w+|trachea\w*|airway|right\s+lung|left\s+lung|lower\s+lobe",
        "duodenum or beyond": r"duoden\w+|jejun\w+|post-?\s?pyloric|treitz",
        "stomach": r"stomach|\bgastric\b|fundus|antrum|pylor\w+|left\s+upper\s+quadrant",
        "below diaphragm": (
            r"(?:below|beneath|beyond|past|distal\s+to)\s+(?:the\s+)?(?:\w+\s+)?(?:(?:hemi)?diaphragm\w*"
            r"|gastro-?esophageal|ge\s+junction|gej)|(?:sub|infra)-?diaphragm\w*"
            r"|(?:off|below|beyond|outside|inferior\s+to)\s+(?:of\s+)?(?:the\s+)?(?:inferior|lower|bottom|film|image"
            r"|field|edge|margin)|not\s+(?:included|imaged|visuali[sz]ed|seen)|out\s+of\s+(?:the\s+)?(?:field|view)"
            r"|upper\s+abdomen"
        ),
        "gastroesophageal junction": r"gastro-?esophageal|\bge\s+junction|\bgej\b",
        "esophagus": r"o?esophag\w+|mid\s?-?thorax|\bchest\b",
    },
    "SGC": {
        "pulmonary outflow tract": r"outflow\s+tract|\brvot\b|pulmonic\s+valve|pulmonary\s+valve",
        "distal pulmonary artery": r"(?:distal|segmental|subsegmental|peripheral|distally)[^.;,]{0,40}(?:pulmonary"
                        r"|arter\w+|branch)|(?:lower|upper|middle)\s+lobe\s+(?:pulmonary|branch|arter)",
        "pulmonary artery": r"pulmonary\s+(?:arter\w+|trunk)|\bpa\b|interlobar|pulmonary\s+outflow|\bhil(?:um|ar)",
        "right ventricle": r"right\s+ventric\w+|\brv\b",
        "right atrium": r"right\s+atri\w+|\bra\b",
        "IVC": r"inferior\s+vena\s+cava|\bivc\b",
        "SVC": r"\bsvc\b|superior\s+vena\s+cava",
    },
    "CT": {
        "side port outside rib cage": r"side[- ]?(?:ports?|holes?)[^.;]{0,60}(?:outside|extra-?thoracic|chest\s+wall"
                        r"|subcutaneous|soft\s+tissue|external|beyond|lateral\s+to)",
        "outside chest": (
            r"outside\s+(?:of\s+)?(?:the\s+)?(?:confines\s+of\s+the\s+)?(?:\w+\s+)?(?:thorax|thoracic|chest|pleura\w*"
            r"|ribs?|rib\s?cage|hemithorax)|(?:in|into|within|over)\s+the\s+(?:\w+\s+)?(?:chest\s+wall|subcutaneous"
            r"|soft\s+tissues)"
            r"|extra-?(?:thoracic|pleural)"
        ),
        "below diaphragm": r"(?:below|beneath|inferior\s+to)\s+(?:the\s+)?(?:\w+\s+)?(?:hemi)?diaphragm\w*|(?:sub"
                        r"|infra)-?diaphragm\w*",
        "adjacent to mediastinum/esp aorta": r"(?:adjacent\s+to|abut\w*|against|close\s+to|near"
                        r"|impinging\s+on)\s+(?:the\s+)?(?:\w+\s+)?(?:mediastin\w+|aort\w+)",
        "upper": r"\bapex|apical\w*|apices|biapical|\bupper\b",
        "lower": r"\bbas(?:e|es|al|ilar)\b|bibasilar|bibasal|\blower\b|costophrenic|\bsulcus\b|cardiophrenic",
        "middle": r"\bmid(?:dle)?\b|mid-?lung|midzone|\bhilum|hilar|perihilar|fissur\w+",
    },
    "MD": {"outside chest": r"outside\s+(?:of\s+)?(?:the\s+)?(?:chest|thorax)", "mediastinum": r"mediastin\w+"},
    "IABP": {
        "above aortic arch": r"above\s+(?:the\s+)?(?:aortic\s+)?(?:arch|knob)",
        "low descending or abdominal aorta": r"abdominal\s+aorta|(?:low|lower|distal"
                        r"|mid)\s+(?:descending\s+)?(?:thoracic\s+)?aorta|diaphragm",
        "proximal descending aorta": r"(?:below|inferior\s+to|caudal\s+to"
                        r"|distal\s+to)\s+(?:the\s+)?(?:\w+\s+of\s+the\s+)?(?:aortic\s+)?(?:arch|knob)"
                        r"|descending\s+(?:thoracic\s+)?aorta",
        "aortic arch": r"\barch\b|\bknob\b",
    },
    "IJ": _VEINS,
    "PICC": _VEINS,
    "SC": _VEINS,
    "CVC": _VEINS,
}  # fmt: skip
